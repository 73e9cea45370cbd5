//! The throttle of logins: how fast passwords can be guessed.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    num::NonZeroU32,
    time::Duration,
};

use custodian_proto::refusal::Refusal;
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};

use super::SpkiHash;
use crate::custody::Denial;

/// How many logins are let through: `burst` at once, then one more every `period`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginRate {
    /// So many at once.
    pub burst: NonZeroU32,
    /// Then one more each such time. Not zero: that means no limit.
    pub period: Duration,
}

impl LoginRate {
    /// For one user name: 10 at once, then 10 a minute.
    pub const PER_USER: Self = Self::new(NonZeroU32::MIN.saturating_add(9), Duration::from_secs(6));

    /// For one device, which several people may share: 20 at once, then 20 a minute.
    pub const PER_DEVICE: Self = Self::new(NonZeroU32::MIN.saturating_add(19), Duration::from_secs(3));

    /// Puts the parts together.
    pub const fn new(burst: NonZeroU32, period: Duration) -> Self {
        Self { burst, period }
    }
}

/// Limits logins per user name and per device.
pub struct LoginThrottle<C: Clock + Clone = DefaultClock> {
    users: Limiter<C>,
    devices: Limiter<C>,
    clock: C,
}

impl LoginThrottle {
    /// A throttle that has seen nobody yet.
    pub fn new(per_user: LoginRate, per_device: LoginRate) -> Self {
        Self::with_clock(per_user, per_device, DefaultClock::default())
    }
}

impl Default for LoginThrottle {
    fn default() -> Self {
        Self::new(LoginRate::PER_USER, LoginRate::PER_DEVICE)
    }
}

impl<C: Clock + Clone> LoginThrottle<C> {
    fn with_clock(per_user: LoginRate, per_device: LoginRate, clock: C) -> Self {
        Self { users: Limiter::new(per_user, &clock), devices: Limiter::new(per_device, &clock), clock }
    }

    /// Counts one login under this user name, known or not, from this device; or says how long to wait.
    ///
    /// The device comes first: one that is throttled cannot use up the logins of the users it names.
    pub fn check(&self, user: &str, device: SpkiHash) -> Result<(), Throttled> {
        self.devices.admit(&device, &self.clock).map_err(|wait| Throttled { of: "device", wait })?;
        self.users.admit(user, &self.clock).map_err(|wait| Throttled { of: "user", wait })
    }
}

/// Too many logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many logins of this {of}: wait {wait:?}")]
pub struct Throttled {
    /// `user` or `device`.
    pub of: &'static str,
    /// When the next one will be let through.
    pub wait: Duration,
}

impl From<Throttled> for Denial {
    fn from(throttled: Throttled) -> Self {
        Self::Refused { refusal: Refusal::LoginThrottled, detail: throttled.to_string() }
    }
}

type Groups<C> = RateLimiter<u16, DashMapStateStore<u16>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// One limit for each of 65,536 groups of keys. Which group a key is in nobody outside can know (SipHash under a random
/// key), and seldom do two keys in use share one. So the memory has a bound that no flood of made-up names moves.
struct Limiter<C: Clock + Clone> {
    limits: Option<Groups<C>>,
    groups: RandomState,
}

impl<C: Clock + Clone> Limiter<C> {
    fn new(rate: LoginRate, clock: &C) -> Self {
        let quota = Quota::with_period(rate.period).map(|quota| quota.allow_burst(rate.burst));
        Self {
            limits: quota.map(|quota| RateLimiter::dashmap_with_clock(quota, clock.clone())),
            groups: RandomState::new(),
        }
    }

    fn admit(&self, key: &(impl Hash + ?Sized), clock: &C) -> Result<(), Duration> {
        let Some(limits) = &self.limits else { return Ok(()) };
        let [low, high, ..] = self.groups.hash_one(key).to_le_bytes();
        let group = u16::from_le_bytes([low, high]);
        limits.check_key(&group).map_err(|not_until| not_until.wait_time_from(clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const LAPTOP: SpkiHash = SpkiHash([1; 32]);

    fn rate(burst: u32, seconds: u64) -> LoginRate {
        LoginRate::new(NonZeroU32::new(burst).unwrap(), Duration::from_secs(seconds))
    }

    fn throttle(
        per_user: LoginRate,
        per_device: LoginRate,
    ) -> (LoginThrottle<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (LoginThrottle::with_clock(per_user, per_device, clock.clone()), clock)
    }

    #[test]
    fn a_user_is_throttled_from_whatever_device_and_told_how_long() {
        let (throttle, clock) = throttle(rate(3, 10), rate(100, 1));
        for device in 0..3 {
            assert_eq!(throttle.check("anna", SpkiHash([device; 32])), Ok(()));
        }
        let throttled = throttle.check("anna", SpkiHash([9; 32])).unwrap_err();
        assert_eq!(throttled.of, "user");
        assert!(throttled.wait > Duration::from_secs(9) && throttled.wait <= Duration::from_secs(10));
        assert_eq!(throttle.check("bob", LAPTOP), Ok(()));
        clock.advance(throttled.wait);
        assert_eq!(throttle.check("anna", LAPTOP), Ok(()));
        assert!(throttle.check("anna", LAPTOP).is_err());
    }

    #[test]
    fn a_device_is_throttled_whatever_users_it_names_and_harms_none_of_them() {
        let (throttle, _) = throttle(rate(2, 10), rate(5, 10));
        for number in 0..5 {
            assert_eq!(throttle.check(&format!("user-{number}"), LAPTOP), Ok(()));
        }
        for _ in 0..10 {
            assert_eq!(throttle.check("anna", LAPTOP).unwrap_err().of, "device");
        }
        assert_eq!(throttle.check("anna", SpkiHash([2; 32])), Ok(()));
    }

    #[test]
    fn a_refusal_names_its_code_and_for_the_log_its_reason() {
        let (throttle, _) = throttle(rate(1, 10), rate(5, 10));
        throttle.check("anna", LAPTOP).unwrap();
        let denial = Denial::from(throttle.check("anna", LAPTOP).unwrap_err());
        assert_eq!(denial.code(), "LOGIN_THROTTLED");
        assert!(denial.detail().contains("of this user"), "{}", denial.detail());
    }

    #[test]
    fn a_flood_of_names_takes_no_more_memory() {
        let (throttle, _) = throttle(rate(1, 10), rate(u32::MAX, 1));
        let flood = (0..200_000).filter(|number| throttle.check(&format!("user-{number}"), LAPTOP).is_err());
        let refused = flood.count();
        let limits = throttle.users.limits.as_ref().unwrap().len();
        assert!(limits <= 65_536 && refused >= 200_000 - 65_536, "{limits} limits, {refused} refused");
    }

    #[test]
    fn users_seldom_share_a_limit() {
        let (throttle, _) = throttle(rate(1, 10), rate(u32::MAX, 1));
        let refused = (0..100).filter(|number| throttle.check(&format!("user-{number}"), LAPTOP).is_err());
        // Expected: 0.08. More than 3 come once in a million runs.
        assert!(refused.count() <= 3);
    }
}

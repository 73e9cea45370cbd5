//! The throttle of logins: how fast passwords can be guessed. And of renewals.

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

use super::DeviceId;
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

    /// For one user name on one device: 10 at once, then 5 a minute. Half of what comes back to the user: one device alone cannot
    /// keep its owner from signing in on another for more than seconds.
    pub const PER_PAIR: Self = Self::new(NonZeroU32::MIN.saturating_add(9), Duration::from_secs(12));

    /// Renewals of one device: 3 at once, then one a day. Each leaves a certificate on the revocation list.
    pub const RENEWALS: Self = Self::new(NonZeroU32::MIN.saturating_add(2), Duration::from_secs(86_400));

    /// Puts the parts together.
    pub const fn new(burst: NonZeroU32, period: Duration) -> Self {
        Self { burst, period }
    }
}

/// What is let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginRates {
    /// Logins of one user name.
    pub user: LoginRate,
    /// Logins of one device.
    pub device: LoginRate,
    /// Logins of one user name on one device.
    pub pair: LoginRate,
    /// Renewals of one device.
    pub renewal: LoginRate,
}

impl Default for LoginRates {
    fn default() -> Self {
        Self {
            user: LoginRate::PER_USER,
            device: LoginRate::PER_DEVICE,
            pair: LoginRate::PER_PAIR,
            renewal: LoginRate::RENEWALS,
        }
    }
}

/// Limits logins per user name and per device. A device is known by its id: a renewed certificate is no way around.
pub struct LoginThrottle<C: Clock + Clone = DefaultClock> {
    users: Limiter<C>,
    devices: Limiter<C>,
    pairs: Limiter<C>,
    renewals: Limiter<C>,
    clock: C,
}

impl Default for LoginThrottle {
    /// A throttle that has seen nobody yet.
    fn default() -> Self {
        Self::with_clock(LoginRates::default(), DefaultClock::default())
    }
}

impl<C: Clock + Clone> LoginThrottle<C> {
    fn with_clock(rates: LoginRates, clock: C) -> Self {
        Self {
            users: Limiter::new(rates.user, &clock),
            devices: Limiter::new(rates.device, &clock),
            pairs: Limiter::new(rates.pair, &clock),
            renewals: Limiter::new(rates.renewal, &clock),
            clock,
        }
    }

    /// Counts one login under this user name, known or not, from this device; or says how long to wait.
    ///
    /// The device comes first: one that is throttled cannot use up the logins of the users it names. Then its share of this
    /// user's: so it cannot use them up all.
    pub fn check(&self, user: &str, device: &DeviceId) -> Result<(), Throttled> {
        let throttled = |of| move |wait| Throttled { of, wait };
        self.devices.admit(device, &self.clock).map_err(throttled("logins of this device"))?;
        self.pairs
            .admit(&(user, device), &self.clock)
            .map_err(throttled("logins of this user on this device"))?;
        self.users.admit(user, &self.clock).map_err(throttled("logins of this user"))
    }

    /// Counts one renewal of this device; or says how long to wait.
    pub fn check_renewal(&self, device: &DeviceId) -> Result<(), Throttled> {
        let throttled = |wait| Throttled { of: "renewals of this device", wait };
        self.renewals.admit(device, &self.clock).map_err(throttled)
    }
}

/// Too many logins, or renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many {of}: wait {wait:?}")]
pub struct Throttled {
    /// Of what: `logins of this user`.
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

    fn laptop(number: u32) -> DeviceId {
        format!("laptop-{number}").parse().unwrap()
    }

    fn rate(burst: u32, seconds: u64) -> LoginRate {
        LoginRate::new(NonZeroU32::new(burst).unwrap(), Duration::from_secs(seconds))
    }

    fn throttle(
        per_user: LoginRate,
        per_device: LoginRate,
    ) -> (LoginThrottle<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let pair = rate(u32::MAX, 1);
        let rates = LoginRates { user: per_user, device: per_device, pair, ..LoginRates::default() };
        (LoginThrottle::with_clock(rates, clock.clone()), clock)
    }

    #[test]
    fn a_user_is_throttled_from_whatever_device_and_told_how_long() {
        let (throttle, clock) = throttle(rate(3, 10), rate(100, 1));
        for device in 0..3 {
            assert_eq!(throttle.check("anna", &laptop(device)), Ok(()));
        }
        let throttled = throttle.check("anna", &laptop(9)).unwrap_err();
        assert_eq!(throttled.of, "logins of this user");
        assert!(throttled.wait > Duration::from_secs(9) && throttled.wait <= Duration::from_secs(10));
        assert_eq!(throttle.check("bob", &laptop(1)), Ok(()));
        clock.advance(throttled.wait);
        assert_eq!(throttle.check("anna", &laptop(1)), Ok(()));
        assert!(throttle.check("anna", &laptop(1)).is_err());
    }

    #[test]
    fn a_device_is_throttled_whatever_users_it_names_and_uses_up_what_none_of_them_has() {
        let (throttle, _) = throttle(rate(2, 10), rate(5, 10));
        assert_eq!(throttle.check("anna", &laptop(1)), Ok(()));
        for number in 0..4 {
            assert_eq!(throttle.check(&format!("user-{number}"), &laptop(1)), Ok(()));
        }
        for _ in 0..10 {
            assert_eq!(throttle.check("anna", &laptop(1)).unwrap_err().of, "logins of this device");
        }
        // What was throttled was not counted as anna's: she has one left of her two.
        assert_eq!(throttle.check("anna", &laptop(2)), Ok(()));
        assert_eq!(throttle.check("anna", &laptop(2)).unwrap_err().of, "logins of this user");
    }

    #[test]
    fn one_device_cannot_keep_its_owner_from_signing_in_on_another() {
        let clock = FakeRelativeClock::default();
        let throttle = LoginThrottle::with_clock(LoginRates::default(), clock.clone());
        for second in 0..600 {
            let stolen = throttle.check("admin", &laptop(1));
            assert!(second < 10 || second % 12 == 0 || stolen.is_err(), "{second}");
            if second % 20 == 0 {
                assert_eq!(throttle.check("admin", &laptop(2)), Ok(()), "after {second} s");
            }
            clock.advance(Duration::from_secs(1));
        }
    }

    #[test]
    fn a_device_renews_itself_a_few_times_and_then_once_a_day() {
        let clock = FakeRelativeClock::default();
        let throttle = LoginThrottle::with_clock(LoginRates::default(), clock.clone());
        let renewals = || (0..100).filter(|_| throttle.check_renewal(&laptop(1)).is_ok()).count();
        assert_eq!(renewals(), 3);
        assert_eq!(throttle.check_renewal(&laptop(2)), Ok(()));
        clock.advance(Duration::from_secs(86_400));
        assert_eq!(renewals(), 1);
        let throttled = throttle.check_renewal(&laptop(1)).unwrap_err();
        assert!(Denial::from(throttled).detail().starts_with("too many renewals of this device: wait"));
    }

    #[test]
    fn a_refusal_names_its_code_and_for_the_log_its_reason() {
        let (throttle, _) = throttle(rate(1, 10), rate(5, 10));
        throttle.check("anna", &laptop(1)).unwrap();
        let denial = Denial::from(throttle.check("anna", &laptop(1)).unwrap_err());
        assert_eq!(denial.code(), "LOGIN_THROTTLED");
        assert!(denial.detail().contains("logins of this user"), "{}", denial.detail());
    }

    #[test]
    fn a_flood_of_names_takes_no_more_memory() {
        let (throttle, _) = throttle(rate(1, 10), rate(u32::MAX, 1));
        let flood =
            (0..200_000).filter(|number| throttle.check(&format!("user-{number}"), &laptop(1)).is_err());
        let refused = flood.count();
        let limits = throttle.users.limits.as_ref().unwrap().len();
        assert!(limits <= 65_536 && refused >= 200_000 - 65_536, "{limits} limits, {refused} refused");
    }

    #[test]
    fn users_seldom_share_a_limit() {
        let (throttle, _) = throttle(rate(1, 10), rate(u32::MAX, 1));
        let refused =
            (0..100).filter(|number| throttle.check(&format!("user-{number}"), &laptop(1)).is_err());
        // Expected: 0.08. More than 3 come once in a million runs.
        assert!(refused.count() <= 3);
    }
}

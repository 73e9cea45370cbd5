//! The life of a key: states, steps and periods of NIST SP 800-57 part 1 (revision 5).

use custodian_proto::refusal::Refusal;
use jiff::Timestamp;

/// Where a key is in its life (SP 800-57 part 1 §7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyState {
    /// §7.1: it exists, and waits for its date or for an administrator.
    PreActive,
    /// §7.2: sealed to, and unwraps.
    Active,
    /// §7.3: stopped for a while.
    Suspended,
    /// §7.4: nothing new is sealed to it; it unwraps what was sealed before.
    Deactivated,
    /// §7.5: somebody else may have it. Stopped for good.
    Compromised,
    /// §7.6: its objects are destroyed. The record stays.
    Destroyed,
}

impl KeyState {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::PreActive,
        Self::Active,
        Self::Suspended,
        Self::Deactivated,
        Self::Compromised,
        Self::Destroyed,
    ];

    /// As it stands in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
        }
    }

    /// Reads what [`KeyState::name`] writes.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What an administrator does to a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyStep {
    /// Lets it begin, or work again.
    Activate,
    /// Stops it for a while.
    Suspend,
    /// Ends sealing to it.
    Deactivate,
    /// Stops it for good: somebody else may have it.
    Compromise,
    /// Stops it for good: its objects are to be destroyed.
    Destroy,
}

impl KeyStep {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Activate, Self::Suspend, Self::Deactivate, Self::Compromise, Self::Destroy];

    /// For a sentence: `cannot be suspended`.
    fn participle(self) -> &'static str {
        match self {
            Self::Activate => "activated",
            Self::Suspend => "suspended",
            Self::Deactivate => "deactivated",
            Self::Compromise => "marked as compromised",
            Self::Destroy => "destroyed",
        }
    }
}

/// The step is not allowed in this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongStep(String);

/// The state that follows: the transitions of SP 800-57 part 1 §7 (figure 3), for private key-transport keys.
///
/// | from | activate | suspend | deactivate | compromise | destroy |
/// |---|---|---|---|---|---|
/// | pre-active (§7.1) | active | – | – | compromised | destroyed |
/// | active (§7.2) | – | suspended | deactivated | compromised | – |
/// | suspended (§7.3) | active | – | deactivated | compromised | – |
/// | deactivated (§7.4) | – | – | – | compromised | destroyed |
/// | compromised (§7.5) | – | – | – | no change | destroyed |
/// | destroyed (§7.6) | – | – | – | – | no change |
///
/// §7 also lets active and suspended keys be destroyed at once. Here that takes two steps: it cannot be undone.
pub fn next(state: KeyState, step: KeyStep) -> Result<KeyState, WrongStep> {
    use KeyState::{Active, Compromised, Deactivated, Destroyed, PreActive, Suspended};
    match (state, step) {
        (PreActive | Suspended, KeyStep::Activate) => Ok(Active),
        (Active, KeyStep::Suspend) => Ok(Suspended),
        (Active | Suspended, KeyStep::Deactivate) => Ok(Deactivated),
        (PreActive | Active | Suspended | Deactivated | Compromised, KeyStep::Compromise) => Ok(Compromised),
        (PreActive | Deactivated | Compromised | Destroyed, KeyStep::Destroy) => Ok(Destroyed),
        (Active | Deactivated | Compromised | Destroyed, KeyStep::Activate)
        | (PreActive | Suspended | Deactivated | Compromised | Destroyed, KeyStep::Suspend)
        | (PreActive | Deactivated | Compromised | Destroyed, KeyStep::Deactivate)
        | (Destroyed, KeyStep::Compromise)
        | (Active | Suspended, KeyStep::Destroy) => {
            Err(WrongStep(format!("it is {} and cannot be {}", state.name(), step.participle())))
        }
    }
}

/// When new envelopes are sealed to a key: the validity of its certificate. The originator-usage period of SP 800-57
/// part 1 §5.3.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrapPeriod {
    from: Timestamp,
    until: Timestamp,
}

/// These periods make no sense together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPeriods {
    /// It ends before it begins.
    #[error("the period of sealing to a key must begin before it ends")]
    Wrap,
    /// What was sealed last could not be opened.
    #[error("a key must unwrap at least as long as envelopes are sealed to it")]
    Unwrap,
}

impl WrapPeriod {
    /// `until` is exclusive.
    pub fn new(from: Timestamp, until: Timestamp) -> Result<Self, BadPeriods> {
        if from < until { Ok(Self { from, until }) } else { Err(BadPeriods::Wrap) }
    }

    /// The first moment.
    pub fn from(self) -> Timestamp {
        self.from
    }

    /// The first moment after it.
    pub fn until(self) -> Timestamp {
        self.until
    }
}

/// How a key begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beginning {
    /// Active as soon as its period of sealing begins.
    OnItsDate,
    /// Pre-active until an administrator activates it.
    ByHand,
}

/// Where a key is in its life: what administrators did, and two periods. The state follows from both and the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyLife {
    set: KeyState,
    wraps: WrapPeriod,
    unwraps_until: Option<Timestamp>,
}

impl KeyLife {
    /// A new life. `unwraps_until` ends the recipient-usage period (SP 800-57 part 1 §5.3.4); `None`: no end.
    pub fn begin(
        beginning: Beginning,
        wraps: WrapPeriod,
        unwraps_until: Option<Timestamp>,
    ) -> Result<Self, BadPeriods> {
        if unwraps_until.is_some_and(|until| until < wraps.until) {
            return Err(BadPeriods::Unwrap);
        }
        let set = match beginning {
            Beginning::OnItsDate => KeyState::Active,
            Beginning::ByHand => KeyState::PreActive,
        };
        Ok(Self { set, wraps, unwraps_until })
    }

    /// A life as the ledger kept it.
    pub(crate) fn restore(set: KeyState, wraps: WrapPeriod, unwraps_until: Option<Timestamp>) -> Self {
        Self { set, wraps, unwraps_until }
    }

    /// What administrators made of it, whatever the time: for the ledger to keep.
    pub(crate) fn set(&self) -> KeyState {
        self.set
    }

    /// The state at this time: an active key is pre-active until its period of sealing begins (§7.1, transition 4), and
    /// deactivated once that has ended (§7.2, transition 8).
    pub fn state(&self, now: Timestamp) -> KeyState {
        match self.set {
            KeyState::Active if now < self.wraps.from => KeyState::PreActive,
            KeyState::Active if now >= self.wraps.until => KeyState::Deactivated,
            set => set,
        }
    }

    /// When new envelopes are sealed to it.
    pub fn wraps(&self) -> WrapPeriod {
        self.wraps
    }

    /// Until when it unwraps; `None`: no end.
    pub fn unwraps_until(&self) -> Option<Timestamp> {
        self.unwraps_until
    }

    /// The life after this step.
    ///
    /// # Errors
    /// If [`next`] does not allow it; or to activate what will become active by itself.
    pub fn step(self, step: KeyStep, now: Timestamp) -> Result<Self, WrongStep> {
        if (self.set, step) == (KeyState::Active, KeyStep::Activate) && now < self.wraps.from {
            return Err(WrongStep(format!("it becomes active by itself at {}", self.wraps.from)));
        }
        next(self.state(now), step).map(|set| Self { set, ..self })
    }

    /// The same life with another end of unwrapping.
    ///
    /// # Errors
    /// If the key is compromised or destroyed: it will never unwrap again.
    pub fn limit(self, unwraps_until: Option<Timestamp>) -> Result<Self, WrongStep> {
        match self.set {
            KeyState::Compromised | KeyState::Destroyed => {
                Err(WrongStep(format!("it is {} and never unwraps again", self.set.name())))
            }
            _ => Ok(Self { unwraps_until, ..self }),
        }
    }

    /// Whether it is sealed to at this time, or why not.
    ///
    /// # Errors
    /// The refusal for the caller.
    pub fn may_wrap(&self, now: Timestamp) -> Result<(), Refusal> {
        // The same period as for signing: of who makes something, not of who reads it.
        self.may_sign(now)
    }

    /// Whether the key unwraps at this time, or why not.
    ///
    /// # Errors
    /// The refusal for the caller.
    pub fn may_unwrap(&self, now: Timestamp) -> Result<(), Refusal> {
        match self.state(now) {
            KeyState::PreActive => Err(Refusal::KeyNotActive),
            KeyState::Suspended => Err(Refusal::KeySuspended),
            KeyState::Compromised => Err(Refusal::KeyCompromised),
            KeyState::Destroyed => Err(Refusal::KeyDestroyed),
            KeyState::Active | KeyState::Deactivated
                if self.unwraps_until.is_some_and(|until| now >= until) =>
            {
                Err(Refusal::KeyExpired)
            }
            KeyState::Active | KeyState::Deactivated => Ok(()),
        }
    }

    /// Whether the key signs at this time, or why not. A signing key has only the originator-usage period (SP 800-57 part 1
    /// §5.3.4): deactivated, it signs nothing more that callers ask for.
    ///
    /// # Errors
    /// The refusal for the caller.
    pub fn may_sign(&self, now: Timestamp) -> Result<(), Refusal> {
        match self.state(now) {
            KeyState::Active => Ok(()),
            KeyState::PreActive => Err(Refusal::KeyNotActive),
            KeyState::Suspended => Err(Refusal::KeySuspended),
            KeyState::Deactivated => Err(Refusal::KeyDeactivated),
            KeyState::Compromised => Err(Refusal::KeyCompromised),
            KeyState::Destroyed => Err(Refusal::KeyDestroyed),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    /// Sealed to from hour 10 to hour 20, unwraps until hour 30.
    fn life(set: KeyState) -> KeyLife {
        KeyLife::restore(set, WrapPeriod::new(at(10), at(20)).unwrap(), Some(at(30)))
    }

    #[test]
    fn every_pair_of_state_and_step_is_as_sp_800_57_says() {
        use KeyState::{Active, Compromised, Deactivated, Destroyed, PreActive, Suspended};
        // Activate, suspend, deactivate, compromise, destroy.
        let table = [
            (PreActive, [Some(Active), None, None, Some(Compromised), Some(Destroyed)]),
            (Active, [None, Some(Suspended), Some(Deactivated), Some(Compromised), None]),
            (Suspended, [Some(Active), None, Some(Deactivated), Some(Compromised), None]),
            (Deactivated, [None, None, None, Some(Compromised), Some(Destroyed)]),
            (Compromised, [None, None, None, Some(Compromised), Some(Destroyed)]),
            (Destroyed, [None, None, None, None, Some(Destroyed)]),
        ];
        assert_eq!(table.map(|(state, _)| state), KeyState::ALL);
        for (state, row) in table {
            for (step, expected) in KeyStep::ALL.into_iter().zip(row) {
                assert_eq!(next(state, step).ok(), expected, "{state:?} {step:?}");
            }
        }
    }

    #[test]
    fn nothing_leads_back_from_compromised_or_destroyed_to_unwrapping() {
        for state in [KeyState::Compromised, KeyState::Destroyed] {
            for step in KeyStep::ALL {
                if let Ok(state) = next(state, step) {
                    assert!(matches!(state, KeyState::Compromised | KeyState::Destroyed));
                }
            }
            assert!(life(state).limit(None).is_err());
        }
    }

    #[test]
    fn states_follow_from_the_dates() {
        let active = life(KeyState::Active);
        assert_eq!(active.state(at(9)), KeyState::PreActive);
        assert_eq!(active.state(at(10)), KeyState::Active);
        assert_eq!(active.state(at(19)), KeyState::Active);
        assert_eq!(active.state(at(20)), KeyState::Deactivated);
        for set in KeyState::ALL.into_iter().filter(|set| *set != KeyState::Active) {
            for hour in [9, 10, 20, 30] {
                assert_eq!(life(set).state(at(hour)), set);
            }
        }
    }

    #[test]
    fn each_state_unwraps_or_says_why_not() {
        let refusals = [
            (KeyState::PreActive, Some(Refusal::KeyNotActive)),
            (KeyState::Active, None),
            (KeyState::Suspended, Some(Refusal::KeySuspended)),
            (KeyState::Deactivated, None),
            (KeyState::Compromised, Some(Refusal::KeyCompromised)),
            (KeyState::Destroyed, Some(Refusal::KeyDestroyed)),
        ];
        for (set, refusal) in refusals {
            assert_eq!(life(set).may_unwrap(at(15)).err(), refusal, "{set:?}");
            // Once both periods are over, no state unwraps.
            assert_eq!(life(set).may_unwrap(at(30)).err(), Some(refusal.unwrap_or(Refusal::KeyExpired)));
        }
        let active = life(KeyState::Active);
        assert_eq!(active.may_unwrap(at(9)), Err(Refusal::KeyNotActive));
        assert_eq!(active.may_unwrap(at(29)), Ok(()), "old envelopes open after the period of sealing");
        assert_eq!(active.limit(None).unwrap().may_unwrap(at(300)), Ok(()));
    }

    #[test]
    fn a_key_signs_while_it_is_active_and_never_after() {
        let refusals = [
            (KeyState::PreActive, Err(Refusal::KeyNotActive)),
            (KeyState::Active, Ok(())),
            (KeyState::Suspended, Err(Refusal::KeySuspended)),
            (KeyState::Deactivated, Err(Refusal::KeyDeactivated)),
            (KeyState::Compromised, Err(Refusal::KeyCompromised)),
            (KeyState::Destroyed, Err(Refusal::KeyDestroyed)),
        ];
        for (set, expected) in refusals {
            assert_eq!(life(set).may_sign(at(15)), expected, "{set:?}");
        }
        let active = life(KeyState::Active);
        assert_eq!(active.may_sign(at(9)), Err(Refusal::KeyNotActive));
        assert_eq!(active.may_sign(at(19)), Ok(()));
        assert_eq!(active.may_sign(at(20)), Err(Refusal::KeyDeactivated), "its certificate has ended");
    }

    #[test]
    fn steps_go_by_the_state_that_the_dates_make() {
        // Deactivated by its date: can be destroyed, and neither suspended nor activated.
        let over = life(KeyState::Active);
        assert_eq!(over.step(KeyStep::Destroy, at(20)).unwrap().set(), KeyState::Destroyed);
        assert!(over.step(KeyStep::Suspend, at(20)).is_err());
        assert!(over.step(KeyStep::Destroy, at(19)).is_err());
        // Suspended beyond its date: activated, it is deactivated.
        let resumed = life(KeyState::Suspended).step(KeyStep::Activate, at(25)).unwrap();
        assert_eq!(resumed.state(at(25)), KeyState::Deactivated);
        // What waits for its date is not hurried.
        let early = life(KeyState::Active).step(KeyStep::Activate, at(5)).unwrap_err().to_string();
        assert!(early.contains("by itself at 1970-01-01T10:00:00Z"), "{early}");
    }

    #[test]
    fn periods_that_make_no_sense_are_refused() {
        assert_eq!(WrapPeriod::new(at(2), at(2)), Err(BadPeriods::Wrap));
        let wraps = WrapPeriod::new(at(1), at(3)).unwrap();
        let begin = |until| KeyLife::begin(Beginning::OnItsDate, wraps, until);
        assert_eq!(begin(Some(at(2))), Err(BadPeriods::Unwrap));
        assert!(begin(Some(at(3))).is_ok() && begin(None).is_ok());
    }
}

//! Budgets: how much may be unwrapped within an hour and a day, by one user, on one device, with one key.
//!
//! Hours and days are those of the clock, in UTC. A window only ever gives way to a later one: a clock that is set back
//! leaves the present one in force until the clock is past its end, so it gives nobody a second budget.

use std::fmt;

use custodian_proto::{key::KeyId, refusal::Refusal};
use jiff::{SignedDuration, Timestamp};

use super::{DeviceId, Guesses, UserId};
use crate::custody::{Denial, Pause};

/// All limits on unwrapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budgets {
    /// Of each user.
    pub user: Budget,
    /// Of each device.
    pub device: Budget,
    /// Of each wrapping key.
    pub key: Budget,
    /// Of each user on each device.
    pub guesses: Guesses,
}

/// What one user, device or key may spend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Within an hour.
    pub hour: Amounts,
    /// Within a day.
    pub day: Amounts,
}

/// Most of each measure within one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Amounts {
    /// Distinct wrapped keys, by their SHA-256: one for each file, however often it is opened.
    pub files: u32,
    /// Unwraps, of whatever files.
    pub unwraps: u32,
}

impl Budgets {
    /// Nothing is too much.
    pub const UNLIMITED: Self = {
        let most = Amounts { files: u32::MAX, unwraps: u32::MAX };
        let budget = Budget { hour: most, day: most };
        let guesses = Guesses { per_hour: u32::MAX, lock: SignedDuration::from_secs(1) };
        Self { user: budget, device: budget, key: budget, guesses }
    };

    /// The limits of this kind of spender.
    pub fn of(&self, kind: SpenderKind) -> Budget {
        match kind {
            SpenderKind::User => self.user,
            SpenderKind::Device => self.device,
            SpenderKind::Key => self.key,
        }
    }
}

/// Who has a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpenderKind {
    /// The person who asks.
    User,
    /// The workstation it is asked from.
    Device,
    /// The wrapping key that is used.
    Key,
}

/// One who has a budget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spender {
    /// A person.
    User(UserId),
    /// A workstation.
    Device(DeviceId),
    /// A wrapping key.
    Key(KeyId),
}

impl Spender {
    /// `users/anna`, `devices/laptop-7` or `keys/KEY_ID`
    pub fn resource_name(&self) -> String {
        match self {
            Self::User(id) => id.resource_name(),
            Self::Device(id) => id.resource_name(),
            Self::Key(id) => id.resource_name(),
        }
    }

    /// Reads a resource name.
    pub fn from_resource_name(name: &str) -> Option<Self> {
        if let Some(id) = name.strip_prefix("users/") {
            return id.parse().ok().map(Self::User);
        }
        if let Some(id) = name.strip_prefix("devices/") {
            return id.parse().ok().map(Self::Device);
        }
        KeyId::from_resource_name(name).ok().map(Self::Key)
    }

    /// Its kind.
    pub fn kind(&self) -> SpenderKind {
        match self {
            Self::User(_) => SpenderKind::User,
            Self::Device(_) => SpenderKind::Device,
            Self::Key(_) => SpenderKind::Key,
        }
    }
}

/// The three whose budgets one unwrap is charged to, as resource names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spenders {
    /// `users/anna`
    pub user: String,
    /// `devices/laptop-7`
    pub device: String,
    /// `keys/KEY_ID`
    pub key: String,
}

impl Spenders {
    /// Each with its kind.
    pub fn each(&self) -> [(SpenderKind, &str); 3] {
        [(SpenderKind::User, &self.user), (SpenderKind::Device, &self.device), (SpenderKind::Key, &self.key)]
    }
}

/// What is to be charged when an unwrap is settled: part of what a permit was given on (law 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Charge {
    /// SHA-256 of the wrapped key.
    pub file: [u8; 32],
    /// The limits that hold.
    pub budgets: Budgets,
}

/// How long a window is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    /// An hour of the clock.
    Hour,
    /// A day, in UTC.
    Day,
}

impl Span {
    /// `hour` or `day`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    const fn seconds(self) -> i64 {
        match self {
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The number of the window that this moment is in, counted from 1970.
    pub fn number(self, time: Timestamp) -> i64 {
        time.as_second().div_euclid(self.seconds())
    }

    /// The first moment after this window.
    pub fn end(self, number: i64) -> Timestamp {
        let end = number.saturating_add(1).saturating_mul(self.seconds());
        Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
    }
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// Distinct wrapped keys.
    Files,
    /// Unwraps.
    Unwraps,
}

impl Measure {
    /// `files` or `unwraps`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Unwraps => "unwraps",
        }
    }

    fn flag(self) -> u8 {
        match self {
            Self::Files => 1,
            Self::Unwraps => 2,
        }
    }
}

/// One budget of one spender in one window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BudgetName {
    /// `users/anna`, `devices/laptop-7` or `keys/KEY_ID`
    pub spender: String,
    /// Of which measure.
    pub measure: Measure,
    /// Within which window.
    pub span: Span,
}

impl fmt::Display for BudgetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}_per_{}", self.spender, self.measure.name(), self.span.name())
    }
}

/// What was spent within one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Window {
    /// Which one, counted from 1970.
    pub number: i64,
    /// The number of the record it began with. Whatever is recorded from there on is in it, whatever the clock says.
    pub since: i64,
    /// Distinct wrapped keys.
    pub files: u32,
    /// Unwraps.
    pub unwraps: u32,
    /// Of which measures the log says already that they were exceeded: flags.
    pub told: u8,
}

/// What one user, device or key spent, and may spend beyond its budget.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Within the hour.
    pub hour: Window,
    /// Within the day.
    pub day: Window,
    /// What an administrator gave beyond.
    pub lift: Option<Lift>,
}

/// What an administrator allows beyond a budget: counted, and for a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lift {
    /// So many attempts.
    pub count: u32,
    /// Of these are left.
    pub left: u32,
    /// The first moment at which it does not hold any more.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
    /// Who gave it: `users/root`; empty for the set-up.
    pub by: String,
}

/// What some unwraps cost one spender.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Unwraps.
    pub unwraps: u32,
    /// Of these, first ones of their file within the hour.
    pub new_in_hour: u32,
    /// Of these, first ones of their file within the day.
    pub new_in_day: u32,
}

impl Cost {
    /// The cost of one more unwrap: `newest` is the record of the last one of this file that this spender was charged for.
    pub fn of_one(tally: &Tally, newest: Option<i64>) -> Self {
        Self::default().and(tally, newest)
    }

    /// With one more, of another file.
    #[must_use]
    pub fn and(self, tally: &Tally, newest: Option<i64>) -> Self {
        let is_new = |window: &Window| u32::from(newest.is_none_or(|newest| newest < window.since));
        Self {
            unwraps: self.unwraps.saturating_add(1),
            new_in_hour: self.new_in_hour.saturating_add(is_new(&tally.hour)),
            new_in_day: self.new_in_day.saturating_add(is_new(&tally.day)),
        }
    }

    fn of(self, span: Span, measure: Measure) -> u32 {
        match (measure, span) {
            (Measure::Unwraps, _) => self.unwraps,
            (Measure::Files, Span::Hour) => self.new_in_hour,
            (Measure::Files, Span::Day) => self.new_in_day,
        }
    }
}

impl Tally {
    /// As it is at this moment: what is over is forgotten. `next` is the number of the next record.
    #[must_use]
    pub fn at(mut self, now: Timestamp, next: i64) -> Self {
        for span in [Span::Hour, Span::Day] {
            let number = span.number(now);
            let window = self.window_mut(span);
            // Not a window before: the clock was set back, and what is spent stays spent.
            if number > window.number {
                *window = Window { number, since: next, ..Window::default() };
            }
        }
        self.lift = self.lift.filter(|lift| lift.left > 0 && now < lift.until);
        self
    }

    /// The window of this length.
    pub fn window(&self, span: Span) -> &Window {
        match span {
            Span::Hour => &self.hour,
            Span::Day => &self.day,
        }
    }

    fn window_mut(&mut self, span: Span) -> &mut Window {
        match span {
            Span::Hour => &mut self.hour,
            Span::Day => &mut self.day,
        }
    }

    /// Whether there is room for this, in the budget or in the lift; else the budget that lacks it, and of several the one
    /// that frees up last.
    fn has_room(&self, spender: &str, budget: &Budget, cost: Cost) -> Result<(), Pause> {
        let Some(lacking) = self.beyond(budget, cost).max_by_key(|lack| lack.span.end(lack.window)) else {
            return Ok(());
        };
        if self.lift.as_ref().is_some_and(|lift| lift.left >= self.lifted(budget, cost)) {
            return Ok(());
        }
        Err(lacking.pause(spender, cost))
    }

    /// Charges what there is room for.
    pub fn charge(&mut self, budget: &Budget, cost: Cost) {
        let lifted = self.lifted(budget, cost);
        if let Some(lift) = self.lift.as_mut().filter(|_| lifted > 0) {
            lift.left = lift.left.saturating_sub(lifted);
        }
        for span in [Span::Hour, Span::Day] {
            let window = self.window_mut(span);
            window.files = window.files.saturating_add(cost.of(span, Measure::Files));
            window.unwraps = window.unwraps.saturating_add(cost.of(span, Measure::Unwraps));
        }
    }

    /// How many of these unwraps are beyond a budget, at most.
    fn lifted(&self, budget: &Budget, cost: Cost) -> u32 {
        let most = |measure| {
            let beyond = self.beyond(budget, cost).filter(|lack| lack.measure == measure);
            beyond.map(|lack| lack.by).max().unwrap_or_default()
        };
        cost.unwraps.min(most(Measure::Files).saturating_add(most(Measure::Unwraps)))
    }

    /// The budgets that this cost exceeds.
    fn beyond(&self, budget: &Budget, cost: Cost) -> impl Iterator<Item = Lack> {
        let hour = (Span::Hour, self.hour, budget.hour);
        let day = (Span::Day, self.day, budget.day);
        [hour, day].into_iter().flat_map(move |(span, window, most)| {
            let files = (Measure::Files, window.files, most.files);
            let unwraps = (Measure::Unwraps, window.unwraps, most.unwraps);
            [files, unwraps].into_iter().filter_map(move |(measure, spent, limit)| {
                let cost = cost.of(span, measure);
                let left = limit.saturating_sub(spent);
                (cost > left).then(|| Lack {
                    measure,
                    span,
                    window: window.number,
                    limit,
                    left,
                    by: cost - left,
                })
            })
        })
    }

    /// Notes that the log says now that this budget was exceeded in the window that ends then. `false`: it did so before.
    pub fn tell(&mut self, measure: Measure, span: Span, end: Timestamp) -> bool {
        let window = self.window_mut(span);
        let is_first = span.end(window.number) == end && window.told & measure.flag() == 0;
        if is_first {
            window.told |= measure.flag();
        }
        is_first
    }
}

/// Whether all of these spenders have room for what it costs them; else the pause of the one that frees up last.
pub fn room_of_all<'a>(each: impl Iterator<Item = (&'a str, Budget, &'a Tally, Cost)>) -> Result<(), Denial> {
    let pauses =
        each.filter_map(|(spender, budget, tally, cost)| tally.has_room(spender, &budget, cost).err());
    match pauses.max_by_key(|pause| pause.until) {
        Some(pause) => Err(pause.into()),
        None => Ok(()),
    }
}

/// A budget without room.
struct Lack {
    measure: Measure,
    span: Span,
    window: i64,
    limit: u32,
    left: u32,
    by: u32,
}

impl Lack {
    fn pause(&self, spender: &str, cost: Cost) -> Pause {
        let Self { measure, span, window, limit, left, .. } = self;
        let until = span.end(*window);
        let (measure_name, span_name) = (measure.name(), span.name());
        let budget =
            format!("the budget of {spender} is {limit} {measure_name} within this {span_name} (UTC)");
        let detail = match cost.unwraps {
            0 | 1 => format!("{budget}, and they are used up until {until}"),
            _ => {
                let asked = cost.of(*span, *measure);
                format!("{budget}: {left} are left until {until}, and these are {asked}")
            }
        };
        let budget = BudgetName { spender: spender.to_owned(), measure: *measure, span: *span };
        Pause { refusal: Refusal::BudgetExhausted, until, detail, budget: Some(budget) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget =
        Budget { hour: Amounts { files: 2, unwraps: 3 }, day: Amounts { files: 4, unwraps: 5 } };

    fn at(text: &str) -> Timestamp {
        format!("2026-11-21T{text}Z").parse().unwrap()
    }

    /// Unwraps one file; `newest`: the record of its last unwrap.
    fn unwraps(tally: &mut Tally, now: Timestamp, next: i64, newest: Option<i64>) -> Result<(), Denial> {
        *tally = tally.clone().at(now, next);
        let cost = Cost::of_one(tally, newest);
        tally.has_room("users/anna", &BUDGET, cost)?;
        tally.charge(&BUDGET, cost);
        Ok(())
    }

    fn lacks(denied: Result<(), Denial>) -> (Measure, Span, Timestamp) {
        let Err(Denial::Paused(pause)) = denied else { panic!("{denied:?}") };
        assert_eq!(pause.refusal, Refusal::BudgetExhausted);
        let budget = pause.budget.unwrap();
        assert_eq!(budget.spender, "users/anna");
        (budget.measure, budget.span, pause.until)
    }

    #[test]
    fn each_budget_has_its_boundary_and_says_when_it_frees_up() {
        let mut tally = Tally::default();
        let (hour, eleven) = (Span::Hour, at("11:00:00"));
        for record in 1..=2 {
            unwraps(&mut tally, at("10:00:00"), record, None).unwrap();
        }
        // The third file is too much; one of the first two is not, once more.
        assert_eq!(lacks(unwraps(&mut tally, at("10:59:59"), 3, None)), (Measure::Files, hour, eleven));
        unwraps(&mut tally, at("10:59:59"), 3, Some(1)).unwrap();
        assert_eq!(lacks(unwraps(&mut tally, at("10:59:59"), 4, Some(1))), (Measure::Unwraps, hour, eleven));

        // Another hour, the same day. What was opened before is a file of this hour again, not of this day.
        unwraps(&mut tally, at("11:00:00"), 4, Some(3)).unwrap();
        assert_eq!((tally.hour.files, tally.day.files, tally.hour.since), (1, 2, 4));
        unwraps(&mut tally, at("11:00:00"), 5, None).unwrap();
        assert_eq!((tally.hour.files, tally.day.files, tally.day.unwraps), (2, 3, 5));
        let midnight: Timestamp = "2026-11-22T00:00:00Z".parse().unwrap();
        assert_eq!(
            lacks(unwraps(&mut tally, at("12:00:00"), 6, Some(5))),
            (Measure::Unwraps, Span::Day, midnight)
        );
        // Of several without room, it is the one that frees up last.
        let full = Window { files: 9, unwraps: 9, ..tally.hour };
        let mut both = Tally { hour: full, ..tally.clone() };
        assert_eq!(
            lacks(unwraps(&mut both, at("12:00:00"), 6, Some(5))),
            (Measure::Unwraps, Span::Day, midnight)
        );
        unwraps(&mut tally, midnight, 6, Some(5)).unwrap();
        assert_eq!((tally.hour.files, tally.day.files, tally.day.unwraps), (1, 1, 1));
    }

    #[test]
    fn a_clock_set_back_gives_no_second_budget() {
        let mut tally = Tally::default();
        for record in 1..=2 {
            unwraps(&mut tally, at("10:30:00"), record, None).unwrap();
        }
        for earlier in ["09:30:00", "00:00:00"] {
            let refused = unwraps(&mut tally, at(earlier), 3, None);
            assert_eq!(lacks(refused), (Measure::Files, Span::Hour, at("11:00:00")), "at {earlier}");
        }
        assert!(unwraps(&mut tally, at("11:00:00"), 3, None).is_ok());
    }

    #[test]
    fn a_clock_set_forward_and_back_gives_no_more_than_its_hours_have() {
        let mut tally = Tally::default();
        let times = ["10:30:00", "11:30:00", "10:40:00", "11:40:00", "10:59:59"];
        let tries = (1..).zip(times.into_iter().cycle()).take(50);
        let allowed = tries.filter(|(record, time)| unwraps(&mut tally, at(time), *record, None).is_ok());
        // One before the hour turned, and two within the next.
        assert_eq!(allowed.count(), 3);
    }

    #[test]
    fn a_lift_is_counted_and_ends() {
        let mut tally = Tally::default();
        let lift =
            |left| Lift { count: 2, left, until: at("10:40:00"), reason: String::new(), by: String::new() };
        tally.lift = Some(lift(2));
        // The budget first: the lift is for what is beyond.
        for record in 1..=2 {
            unwraps(&mut tally, at("10:00:00"), record, None).unwrap();
        }
        assert_eq!(tally.lift, Some(lift(2)));
        unwraps(&mut tally, at("10:39:59"), 3, None).unwrap();
        assert_eq!(tally.lift, Some(lift(1)));
        let mut late = tally.clone();
        lacks(unwraps(&mut late, at("10:40:00"), 4, None));
        assert_eq!(late.lift, None);
        // Beyond two budgets at once, it is one attempt all the same… of one, or of two measures.
        unwraps(&mut tally, at("10:39:59"), 4, Some(3)).unwrap();
        assert_eq!(tally.clone().at(at("10:39:59"), 5).lift, None);
        lacks(unwraps(&mut tally, at("10:39:59"), 5, None));
    }

    #[test]
    fn many_at_once_fit_or_do_not() {
        let mut tally = Tally::default().at(at("10:00:00"), 1);
        let of = |count| (0..count).fold(Cost::default(), |cost, _| cost.and(&Tally::default(), None));
        let fits = |tally: &Tally, count| tally.has_room("users/anna", &BUDGET, of(count));
        fits(&tally, 2).unwrap();
        let pause = fits(&tally, 3).unwrap_err();
        assert!(pause.detail.contains("2 files within this hour"), "{}", pause.detail);
        assert!(
            pause.detail.contains("2 are left until 2026-11-21T11:00:00Z, and these are 3"),
            "{}",
            pause.detail
        );
        tally.lift =
            Some(Lift { count: 1, left: 1, until: at("23:00:00"), reason: String::new(), by: String::new() });
        fits(&tally, 3).unwrap();
        fits(&tally, 4).unwrap_err();
    }

    #[test]
    fn the_log_is_told_once_in_a_window() {
        let mut tally = Tally::default().at(at("10:00:00"), 1);
        let eleven = at("11:00:00");
        assert!(tally.tell(Measure::Files, Span::Hour, eleven));
        assert!(!tally.tell(Measure::Files, Span::Hour, eleven));
        assert!(tally.tell(Measure::Unwraps, Span::Hour, eleven));
        let mut tally = tally.at(eleven, 2);
        assert!(!tally.tell(Measure::Files, Span::Hour, eleven), "a refusal of the hour before");
        assert!(tally.tell(Measure::Files, Span::Hour, at("12:00:00")));
    }
}

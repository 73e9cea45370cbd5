//! Schedules of faults that follow from a seed.

use std::time::Duration;

use faulty_pkcs11::{Act, Code, Control, Function, TokenLie, When};

use crate::dice::Dice;

/// What a call of the service needs of the module.
const WORK: [Function; 2] = [Function::DecryptInit, Function::Decrypt];

/// What a worker needs of it to start, to change sessions, and to end.
const UPKEEP: [Function; 11] = [
    Function::Initialize,
    Function::GetSlotList,
    Function::GetTokenInfo,
    Function::OpenSession,
    Function::CloseSession,
    Function::Login,
    Function::FindObjectsInit,
    Function::FindObjects,
    Function::FindObjectsFinal,
    Function::GetAttributeValue,
    Function::Finalize,
];

/// After these the token is not asked again until a person has seen to it, since tokens lock. That is no fault to recover
/// from by itself.
const FINAL_AT_LOGIN: [Code; 7] = [
    Code::CKR_PIN_INCORRECT,
    Code::CKR_PIN_INVALID,
    Code::CKR_PIN_LEN_RANGE,
    Code::CKR_PIN_EXPIRED,
    Code::CKR_PIN_LOCKED,
    Code::CKR_PIN_TOO_WEAK,
    Code::CKR_USER_PIN_NOT_INITIALIZED,
];

/// Some time of load, and what goes wrong meanwhile.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What it follows from.
    pub seed: u64,
    /// Callers at once.
    pub callers: u64,
    /// For how long.
    pub load: Duration,
    /// What goes wrong.
    pub control: Control,
}

impl Schedule {
    /// The schedule of this seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let callers = dice.between(1, 8);
        let load = Duration::from_millis(dice.between(100, 300));
        let mut control = Control::default();
        // A worker that is replaced meets the faults of the upkeep.
        let restarts = dice.once_in(2);
        if restarts {
            let end = dice.one_of(&[Act::Abort, Act::Segfault, Act::Exit(0), Act::Exit(3)]);
            control = control.fault(dice.one_of(&WORK), When::Call(dice.between(1, 20)), end);
        }
        for _ in 0..dice.between(1, 3) {
            control = if restarts && !dice.once_in(3) {
                upkeep(&mut dice, control)
            } else {
                work(&mut dice, control)
            };
        }
        if dice.once_in(12) {
            control = control.token(lie(&mut dice));
        }
        Self { seed, callers, load, control }
    }

    /// The same for a token beside another with the same keys: without error codes to ciphertexts. What a token says of
    /// one is the answer, wherever it comes from.
    pub fn of_one_of_two(seed: u64) -> Self {
        let mut schedule = Self::of(seed);
        let is_code = |act: Act| matches!(act, Act::Return(_) | Act::DoThenReturn(_));
        let faults = &mut schedule.control.faults;
        faults.retain(|fault| !(WORK.contains(&fault.function) && is_code(fault.act)));
        if faults.is_empty() {
            schedule.control =
                schedule.control.fault(Function::Decrypt, When::Call(1 + seed % 40), Act::Hang);
        }
        schedule
    }
}

fn work(dice: &mut Dice, control: Control) -> Control {
    let function = dice.one_of(&WORK);
    let act = act(dice, function);
    // What ends or stops a process, a few times; what passes, maybe often.
    let when = match act {
        Act::Return(_) | Act::DoThenReturn(_) | Act::DelayMs(_) | Act::Logout => when(dice, 60),
        _ => When::Call(dice.between(1, 60)),
    };
    control.fault(function, when, act)
}

fn upkeep(dice: &mut Dice, control: Control) -> Control {
    let function = dice.one_of(&UPKEEP);
    let act = match function {
        Function::FindObjects | Function::GetSlotList if dice.once_in(4) => Act::FindNothing,
        _ => act(dice, function),
    };
    let when = when(dice, 4);
    control.fault(function, when, act)
}

fn when(dice: &mut Dice, most: u64) -> When {
    match dice.between(0, 3) {
        0 | 1 => When::Call(dice.between(1, most)),
        2 => {
            let from = dice.between(1, most);
            When::Calls { from, to: Some(from + dice.between(0, 10)) }
        }
        _ => When::Chance { one_in: dice.between(3, 40), seed: dice.number() as u32 },
    }
}

fn act(dice: &mut Dice, function: Function) -> Act {
    match dice.between(0, 9) {
        0..=2 => Act::Return(code(dice, function)),
        3 => Act::DoThenReturn(code(dice, function)),
        4 => Act::DelayMs(dice.between(1, 300)),
        5 | 6 => Act::Hang,
        7 => dice.one_of(&[Act::Abort, Act::Segfault, Act::Exit(0), Act::Exit(1)]),
        // Only within a session, and not instead of the end of one.
        _ if matches!(function, Function::DecryptInit | Function::Decrypt | Function::FindObjectsInit) => {
            Act::Logout
        }
        _ => Act::DelayMs(dice.between(1, 100)),
    }
}

/// Any code but success: a module that says it has done what it has not is out of scope.
fn code(dice: &mut Dice, function: Function) -> Code {
    loop {
        let (_, code) = dice.one_of(Code::ALL);
        let is_final = function == Function::Login && FINAL_AT_LOGIN.contains(&code);
        if code != Code::CKR_OK && !is_final {
            return code;
        }
    }
}

fn lie(dice: &mut Dice) -> TokenLie {
    if dice.once_in(2) {
        TokenLie { max_sessions: Some(dice.between(1, 4) as u32), ..TokenLie::default() }
    } else {
        TokenLie { utc_time: Some("never".to_owned()), ..TokenLie::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_schedule_again() {
        for seed in 0..100 {
            assert_eq!(Schedule::of(seed).control, Schedule::of(seed).control);
            assert!(!Schedule::of(seed).control.faults.is_empty());
        }
    }
}

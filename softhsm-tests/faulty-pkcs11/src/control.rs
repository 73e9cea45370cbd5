//! What the module is to do wrong.
//!
//! ```toml
//! generation = 7
//!
//! [token]                                   # what C_GetTokenInfo says beside the truth
//! set = ["CKF_USER_PIN_FINAL_TRY"]
//! max_sessions = 3                          # also kept: one more is CKR_SESSION_COUNT
//! utc_time = "no time at all"
//!
//! [[fault]]
//! function = "C_Decrypt"
//! when = { call = 3 }                       # or "every", { calls = { from = 3, to = 5 } }, { chance = { … } }
//! act = { return = "CKR_DEVICE_ERROR" }     # or "hang", "logout", { delay_ms = 200 } …
//! ```

use cryptoki_sys::{
    CK_FLAGS, CK_TOKEN_INFO, CKF_ERROR_STATE, CKF_LOGIN_REQUIRED, CKF_TOKEN_INITIALIZED,
    CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_INITIALIZED, CKF_USER_PIN_LOCKED,
    CKF_USER_PIN_TO_BE_CHANGED, CKF_WRITE_PROTECTED,
};
use serde::{Deserialize, Serialize};

use crate::{Code, Function};

/// All that is to go wrong. The default is nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Calls are counted anew with each: the writer gives each control another number.
    #[serde(default)]
    pub generation: u32,
    /// What the token says of itself.
    #[serde(default)]
    pub token: TokenLie,
    /// For each call the first that fits is done.
    #[serde(default, rename = "fault", skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// One thing that is to go wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// In this function.
    pub function: Function,
    /// At these calls of it.
    pub when: When,
    /// What.
    pub act: Act,
}

/// Calls of one function, counted from 1 since the control was written, over all processes that use its folder.
///
/// `cryptoki` calls some functions twice, for the length and for the value: each counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum When {
    /// All.
    Every,
    /// This one.
    Call(u64),
    /// From this one to that one, both included; without an end if none is given.
    Calls {
        /// The first.
        from: u64,
        /// The last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// About one in so many. Which, follows from the seed alone.
    Chance {
        /// In so many; 0 is none.
        one_in: u64,
        /// What it follows from.
        seed: u32,
    },
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// The real module is not called; this is returned.
    Return(Code),
    /// The real module does it, then this is returned: done, but the answer is lost.
    DoThenReturn(Code),
    /// So many milliseconds later.
    DelayMs(u64),
    /// It never returns.
    Hang,
    /// The process ends by SIGABRT.
    Abort,
    /// The process ends by SIGSEGV.
    Segfault,
    /// The process ends with this code, as if the module had called exit.
    Exit(i32),
    /// The login is gone (C_Logout), then the real module is called. For functions of a session.
    Logout,
    /// The real module is called, but found nothing. For C_FindObjects and C_GetSlotList.
    FindNothing,
}

/// What C_GetTokenInfo says that is not so.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenLie {
    /// Flags that are set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<TokenFlag>,
    /// Flags that are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clear: Vec<TokenFlag>,
    /// `ulMaxSessionCount`. C_OpenSession keeps to it, in each process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// `utcTime`, cut or filled with blanks to 16 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utc_time: Option<String>,
}

/// A flag of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "PKCS#11 has the docs")]
pub enum TokenFlag {
    #[serde(rename = "CKF_WRITE_PROTECTED")]
    WriteProtected,
    #[serde(rename = "CKF_LOGIN_REQUIRED")]
    LoginRequired,
    #[serde(rename = "CKF_USER_PIN_INITIALIZED")]
    UserPinInitialized,
    #[serde(rename = "CKF_TOKEN_INITIALIZED")]
    TokenInitialized,
    #[serde(rename = "CKF_USER_PIN_COUNT_LOW")]
    UserPinCountLow,
    #[serde(rename = "CKF_USER_PIN_FINAL_TRY")]
    UserPinFinalTry,
    #[serde(rename = "CKF_USER_PIN_LOCKED")]
    UserPinLocked,
    #[serde(rename = "CKF_USER_PIN_TO_BE_CHANGED")]
    UserPinToBeChanged,
    #[serde(rename = "CKF_ERROR_STATE")]
    ErrorState,
}

impl Control {
    /// With one more fault.
    #[must_use]
    pub fn fault(mut self, function: Function, when: When, act: Act) -> Self {
        self.faults.push(Fault { function, when, act });
        self
    }

    /// With a token that says this of itself.
    #[must_use]
    pub fn token(mut self, token: TokenLie) -> Self {
        self.token = token;
        self
    }
}

impl When {
    /// Whether it is this call's turn, counted from 1.
    pub fn includes(self, call: u64) -> bool {
        match self {
            Self::Every => true,
            Self::Call(one) => call == one,
            Self::Calls { from, to } => call >= from && to.is_none_or(|to| call <= to),
            Self::Chance { one_in, seed } => {
                one_in > 0 && mix(u64::from(seed) << 32 | call).is_multiple_of(one_in)
            }
        }
    }
}

/// Spreads neighbours far apart (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl TokenLie {
    /// Changes what the token said.
    pub(crate) fn tell(&self, info: &mut CK_TOKEN_INFO) {
        let bits = |flags: &[TokenFlag]| flags.iter().fold(0, |all, flag| all | flag.bit());
        info.flags = (info.flags | bits(&self.set)) & !bits(&self.clear);
        if let Some(most) = self.max_sessions {
            info.ulMaxSessionCount = most.into();
        }
        if let Some(time) = &self.utc_time {
            let bytes = time.bytes().chain(std::iter::repeat(b' '));
            info.utcTime.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
    }
}

impl TokenFlag {
    fn bit(self) -> CK_FLAGS {
        match self {
            Self::WriteProtected => CKF_WRITE_PROTECTED,
            Self::LoginRequired => CKF_LOGIN_REQUIRED,
            Self::UserPinInitialized => CKF_USER_PIN_INITIALIZED,
            Self::TokenInitialized => CKF_TOKEN_INITIALIZED,
            Self::UserPinCountLow => CKF_USER_PIN_COUNT_LOW,
            Self::UserPinFinalTry => CKF_USER_PIN_FINAL_TRY,
            Self::UserPinLocked => CKF_USER_PIN_LOCKED,
            Self::UserPinToBeChanged => CKF_USER_PIN_TO_BE_CHANGED,
            Self::ErrorState => CKF_ERROR_STATE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_types_is_understood() {
        let typed = r#"
            generation = 7
            [token]
            set = ["CKF_USER_PIN_FINAL_TRY"]
            max_sessions = 3
            utc_time = "no time at all"
            [[fault]]
            function = "C_Decrypt"
            when = { call = 3 }
            act = { return = "CKR_DEVICE_ERROR" }
            [[fault]]
            function = "C_Sign"
            when = "every"
            act = "hang"
            [[fault]]
            function = "C_OpenSession"
            when = { calls = { from = 2 } }
            act = { delay_ms = 200 }
        "#;
        let token = TokenLie {
            set: vec![TokenFlag::UserPinFinalTry],
            max_sessions: Some(3),
            utc_time: Some("no time at all".to_owned()),
            ..TokenLie::default()
        };
        let meant = Control { generation: 7, ..Control::default() }
            .token(token)
            .fault(Function::Decrypt, When::Call(3), Act::Return(Code::CKR_DEVICE_ERROR))
            .fault(Function::Sign, When::Every, Act::Hang)
            .fault(Function::OpenSession, When::Calls { from: 2, to: None }, Act::DelayMs(200));
        assert_eq!(toml::from_str::<Control>(typed).unwrap(), meant);
    }

    #[test]
    fn everything_is_read_as_it_is_written() {
        let acts = [
            Act::Return(Code::CKR_OK),
            Act::DoThenReturn(Code(0x8000_0001)),
            Act::DelayMs(1),
            Act::Hang,
            Act::Abort,
            Act::Segfault,
            Act::Exit(3),
            Act::Logout,
            Act::FindNothing,
        ];
        let whens = [
            When::Every,
            When::Call(1),
            When::Calls { from: 1, to: Some(2) },
            When::Calls { from: 1, to: None },
            When::Chance { one_in: 3, seed: u32::MAX },
        ];
        let mut control = Control::default();
        for (index, function) in Function::ALL.iter().enumerate() {
            control = control.fault(*function, whens[index % whens.len()], acts[index % acts.len()]);
        }
        assert_eq!(toml::from_str::<Control>(&toml::to_string(&control).unwrap()).unwrap(), control);
    }

    #[test]
    fn chance_follows_from_the_seed_alone() {
        let fired = |seed| -> Vec<_> {
            (1..=10_000).filter(|call| When::Chance { one_in: 10, seed }.includes(*call)).collect()
        };
        assert_eq!(fired(1), fired(1));
        assert_ne!(fired(1), fired(2));
        assert!((800..1_200).contains(&fired(1).len()), "{}", fired(1).len());
        assert!(!When::Chance { one_in: 0, seed: 1 }.includes(1));
    }
}

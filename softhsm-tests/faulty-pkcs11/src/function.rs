//! The functions that can fail: those that a custodian calls, or may come to call.

use serde::{Deserialize, Serialize};

macro_rules! functions {
    ($($name:ident),* $(,)?) => {
        /// A PKCS#11 function, without its `C_`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        #[allow(missing_docs, reason = "PKCS#11 has the docs")]
        pub enum Function { $($name),* }

        impl Function {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As the standard writes it: `C_Decrypt`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => concat!("C_", stringify!($name))),* }
            }
        }
    };
}

functions! {
    Initialize, Finalize, GetSlotList, GetTokenInfo, GetMechanismList, GetMechanismInfo,
    OpenSession, CloseSession, CloseAllSessions, GetSessionInfo, Login, Logout,
    CreateObject, CopyObject, DestroyObject, GetAttributeValue, SetAttributeValue,
    FindObjectsInit, FindObjects, FindObjectsFinal,
    EncryptInit, Encrypt, DecryptInit, Decrypt, SignInit, Sign, VerifyInit, Verify,
    GenerateKey, GenerateKeyPair, WrapKey, UnwrapKey, GenerateRandom,
}

/// No function of this name can be made to fail.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no function that can be made to fail")]
pub struct UnknownFunction(String);

impl TryFrom<String> for Function {
    type Error = UnknownFunction;

    fn try_from(name: String) -> Result<Self, UnknownFunction> {
        let found = Self::ALL.iter().find(|function| function.name() == name);
        found.copied().ok_or(UnknownFunction(name))
    }
}

impl From<Function> for String {
    fn from(function: Function) -> Self {
        function.name().to_owned()
    }
}

//! What a module's error codes mean: the one table, for PKCS#11 2.40 to 3.2, with the vendors' own codes as one class.
//!
//! The class says what to try first. It never has the last word on an unwrap: modules give the same code to a bad
//! ciphertext and to a token on fire, so the canary is asked before a ciphertext is called bad and before anything is
//! torn down (`ServedKey::is_well`).

use std::fmt;

use cryptoki::error::{Error, RvError};

/// What a failure calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sense {
    /// What the caller gave is bad.
    BadInput,
    /// It passes: try again after a pause.
    Transient,
    /// The session is of no more use: open another, try once more.
    SessionGone,
    /// The login has ended, and with it every handle found since: log in anew, find the keys anew.
    LoginGone,
    /// The token is not there.
    TokenGone,
    /// Only a new start of the module can help.
    ModuleBroken,
    /// No repetition helps. Says what a person can do.
    Configuration(&'static str),
    /// The code means one thing here and another there.
    Ambiguous,
}

impl Sense {
    /// Whether it could concern one key or one input only.
    pub(super) fn may_be_of_one(self) -> bool {
        matches!(self, Self::BadInput | Self::Ambiguous | Self::Configuration(_))
    }

    /// Whether nothing works in this process any more, as the module says.
    pub(super) fn is_the_end(self) -> bool {
        matches!(self, Self::LoginGone | Self::TokenGone | Self::ModuleBroken)
    }
}

/// When a call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Before the module was given what the caller gave: no session, no operation begun.
    Before,
    /// With it.
    AtWork,
}

/// A call into the module that failed, or gave what it must not give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) sense: Sense,
    /// The module's code, if it gave one.
    pub(super) code: Option<RvError>,
    stage: Stage,
    text: String,
}

impl Failure {
    /// One that the module did not report itself.
    pub(super) fn new(sense: Sense, text: impl Into<String>) -> Self {
        Self { sense, code: None, stage: Stage::AtWork, text: text.into() }
    }

    /// One that came before the module was given what the caller gave.
    #[must_use]
    pub(super) fn before(self) -> Self {
        Self { stage: Stage::Before, ..self }
    }

    /// Whether what the caller gave could be behind it.
    pub(super) fn could_be_the_callers(&self) -> bool {
        self.stage == Stage::AtWork
    }

    /// With what failed because of it.
    #[must_use]
    pub(super) fn of(self, what: impl fmt::Display) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let (sense, code) = match error {
            Error::Pkcs11(code, _) => (row(*code).1, Some(*code)),
            Error::LibraryLoading(_) | Error::MissingSymbol(_) => (Sense::Configuration(MODULE), None),
            Error::NullFunctionPointer | Error::NotSupported => (Sense::Configuration(ABILITY), None),
            // What the module answered makes no sense.
            Error::TryFromInt(_)
            | Error::TryFromSlice(_)
            | Error::ParseInt(_)
            | Error::Utf8(_)
            | Error::InvalidValue => (Sense::ModuleBroken, None),
            Error::NulError(_) | Error::PinNotSet => (Sense::Configuration(PIN), None),
        };
        Self { sense, code, stage: Stage::AtWork, text: said(error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.sense {
            Sense::Configuration(cure) => write!(f, ". {cure}"),
            _ => Ok(()),
        }
    }
}

/// Who said what, in the standard's own words: `C_Decrypt: CKR_DEVICE_ERROR`.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(RvError::VendorDefined(code), function) => {
            format!("C_{function:?}: CKR_VENDOR_DEFINED + {:#x}", code & !VENDOR_DEFINED)
        }
        Error::Pkcs11(code @ RvError::UnknownErrorCode(number), function) => {
            format!("C_{function:?}: {} ({number:#x})", row(*code).0)
        }
        Error::Pkcs11(code, function) => format!("C_{function:?}: {}", row(*code).0),
        other => other.to_string(),
    }
}

/// CKR_VENDOR_DEFINED: vendors number their own codes from here on.
const VENDOR_DEFINED: u64 = 0x8000_0000;

const MODULE: &str = "Give the shared library that the token's vendor names as its PKCS#11 module";
const ABILITY: &str = "The module cannot do this: ask the vendor for a version that can";
const KEY: &str = "The token does not let the key be used like this: check the key's attributes and the token's policy \
                   with its own tools";
const PIN: &str = "Set the token's user PIN with its own tools, and put it where the custodian reads it";
const POLICY: &str = "The token's policy or state forbids this: check it with the token's own tools";
const PERSON: &str = "The token wants a person to confirm each use: a key like that cannot be served";
const THREADS: &str = "The module cannot be used by several threads: ask the vendor how";

/// The table: a code's name and its sense. Without a wildcard: a code that cryptoki learns must be given its sense here.
fn row(code: RvError) -> (&'static str, Sense) {
    use RvError as Rv;
    use Sense::{
        Ambiguous, BadInput, Configuration, LoginGone, ModuleBroken, SessionGone, TokenGone, Transient,
    };
    match code {
        Rv::EncryptedDataInvalid => ("CKR_ENCRYPTED_DATA_INVALID", BadInput),
        Rv::EncryptedDataLenRange => ("CKR_ENCRYPTED_DATA_LEN_RANGE", BadInput),
        Rv::DataInvalid => ("CKR_DATA_INVALID", BadInput),
        Rv::DataLenRange => ("CKR_DATA_LEN_RANGE", BadInput),
        Rv::WrappedKeyInvalid => ("CKR_WRAPPED_KEY_INVALID", BadInput),
        Rv::WrappedKeyLenRange => ("CKR_WRAPPED_KEY_LEN_RANGE", BadInput),
        Rv::SignatureInvalid => ("CKR_SIGNATURE_INVALID", BadInput),
        Rv::SignatureLenRange => ("CKR_SIGNATURE_LEN_RANGE", BadInput),

        Rv::HostMemory => ("CKR_HOST_MEMORY", Transient),
        Rv::DeviceMemory => ("CKR_DEVICE_MEMORY", Transient),
        Rv::Cancel => ("CKR_CANCEL", Transient),
        Rv::FunctionCanceled => ("CKR_FUNCTION_CANCELED", Transient),
        Rv::SessionCount => ("CKR_SESSION_COUNT", Transient),
        Rv::ExceededMaxIterations => ("CKR_EXCEEDED_MAX_ITERATIONS", Transient),

        Rv::SessionClosed => ("CKR_SESSION_CLOSED", SessionGone),
        Rv::SessionHandleInvalid => ("CKR_SESSION_HANDLE_INVALID", SessionGone),
        // One module leaves a session like this for ever after a bad ciphertext.
        Rv::OperationActive => ("CKR_OPERATION_ACTIVE", SessionGone),
        Rv::OperationNotInitialized => ("CKR_OPERATION_NOT_INITIALIZED", SessionGone),

        Rv::UserNotLoggedIn => ("CKR_USER_NOT_LOGGED_IN", LoginGone),
        Rv::UserAnotherAlreadyLoggedIn => ("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", LoginGone),
        Rv::UserTooManyTypes => ("CKR_USER_TOO_MANY_TYPES", LoginGone),
        // Handles of private keys die with the login.
        Rv::KeyHandleInvalid => ("CKR_KEY_HANDLE_INVALID", LoginGone),
        Rv::ObjectHandleInvalid => ("CKR_OBJECT_HANDLE_INVALID", LoginGone),
        Rv::UnwrappingKeyHandleInvalid => ("CKR_UNWRAPPING_KEY_HANDLE_INVALID", LoginGone),
        Rv::WrappingKeyHandleInvalid => ("CKR_WRAPPING_KEY_HANDLE_INVALID", LoginGone),

        Rv::TokenNotPresent => ("CKR_TOKEN_NOT_PRESENT", TokenGone),
        Rv::TokenNotRecognized => ("CKR_TOKEN_NOT_RECOGNIZED", TokenGone),
        Rv::DeviceRemoved => ("CKR_DEVICE_REMOVED", TokenGone),
        Rv::SlotIdInvalid => ("CKR_SLOT_ID_INVALID", TokenGone),

        Rv::CryptokiNotInitialized => ("CKR_CRYPTOKI_NOT_INITIALIZED", ModuleBroken),
        Rv::MutexBad => ("CKR_MUTEX_BAD", ModuleBroken),
        Rv::MutexNotLocked => ("CKR_MUTEX_NOT_LOCKED", ModuleBroken),
        Rv::FipsSelfTestFailed => ("CKR_FIPS_SELF_TEST_FAILED", ModuleBroken),
        Rv::LibraryLoadFailed => ("CKR_LIBRARY_LOAD_FAILED", ModuleBroken),

        Rv::AttributeReadOnly => ("CKR_ATTRIBUTE_READ_ONLY", Configuration(POLICY)),
        Rv::AttributeSensitive => ("CKR_ATTRIBUTE_SENSITIVE", Configuration(POLICY)),
        Rv::AttributeTypeInvalid => ("CKR_ATTRIBUTE_TYPE_INVALID", Configuration(ABILITY)),
        Rv::AttributeValueInvalid => ("CKR_ATTRIBUTE_VALUE_INVALID", Configuration(ABILITY)),
        Rv::ActionProhibited => ("CKR_ACTION_PROHIBITED", Configuration(POLICY)),
        Rv::CantLock => ("CKR_CANT_LOCK", Configuration(THREADS)),
        Rv::NeedToCreateThreads => ("CKR_NEED_TO_CREATE_THREADS", Configuration(THREADS)),
        Rv::CurveNotSupported => ("CKR_CURVE_NOT_SUPPORTED", Configuration(ABILITY)),
        Rv::DomainParamsInvalid => ("CKR_DOMAIN_PARAMS_INVALID", Configuration(ABILITY)),
        Rv::FunctionNotSupported => ("CKR_FUNCTION_NOT_SUPPORTED", Configuration(ABILITY)),
        Rv::FunctionRejected => ("CKR_FUNCTION_REJECTED", Configuration(PERSON)),
        Rv::InformationSensitive => ("CKR_INFORMATION_SENSITIVE", Configuration(POLICY)),
        Rv::KeyFunctionNotPermitted => ("CKR_KEY_FUNCTION_NOT_PERMITTED", Configuration(KEY)),
        Rv::KeyNotWrappable => ("CKR_KEY_NOT_WRAPPABLE", Configuration(KEY)),
        Rv::KeySizeRange => ("CKR_KEY_SIZE_RANGE", Configuration(KEY)),
        Rv::KeyTypeInconsistent => ("CKR_KEY_TYPE_INCONSISTENT", Configuration(KEY)),
        Rv::KeyUnextractable => ("CKR_KEY_UNEXTRACTABLE", Configuration(KEY)),
        Rv::MechanismInvalid => ("CKR_MECHANISM_INVALID", Configuration(ABILITY)),
        Rv::MechanismParamInvalid => ("CKR_MECHANISM_PARAM_INVALID", Configuration(ABILITY)),
        Rv::NewPinMode => ("CKR_NEW_PIN_MODE", Configuration(PERSON)),
        Rv::NextOtp => ("CKR_NEXT_OTP", Configuration(PERSON)),
        Rv::PinExpired => ("CKR_PIN_EXPIRED", Configuration(PIN)),
        Rv::PinIncorrect => ("CKR_PIN_INCORRECT", Configuration(PIN)),
        Rv::PinInvalid => ("CKR_PIN_INVALID", Configuration(PIN)),
        Rv::PinLenRange => ("CKR_PIN_LEN_RANGE", Configuration(PIN)),
        Rv::PinLocked => ("CKR_PIN_LOCKED", Configuration(PIN)),
        Rv::PinTooWeak => ("CKR_PIN_TOO_WEAK", Configuration(PIN)),
        Rv::PublicKeyInvalid => ("CKR_PUBLIC_KEY_INVALID", Configuration(KEY)),
        Rv::RandomNoRng => ("CKR_RANDOM_NO_RNG", Configuration(ABILITY)),
        Rv::RandomSeedNotSupported => ("CKR_RANDOM_SEED_NOT_SUPPORTED", Configuration(ABILITY)),
        Rv::SessionExists => ("CKR_SESSION_EXISTS", Configuration(POLICY)),
        Rv::SessionParallelNotSupported => ("CKR_SESSION_PARALLEL_NOT_SUPPORTED", Configuration(ABILITY)),
        Rv::SessionReadOnly => ("CKR_SESSION_READ_ONLY", Configuration(POLICY)),
        Rv::SessionReadOnlyExists => ("CKR_SESSION_READ_ONLY_EXISTS", Configuration(POLICY)),
        Rv::SessionReadWriteSoExists => ("CKR_SESSION_READ_WRITE_SO_EXISTS", Configuration(POLICY)),
        Rv::TemplateIncomplete => ("CKR_TEMPLATE_INCOMPLETE", Configuration(ABILITY)),
        Rv::TemplateInconsistent => ("CKR_TEMPLATE_INCONSISTENT", Configuration(ABILITY)),
        Rv::TokenWriteProtected => ("CKR_TOKEN_WRITE_PROTECTED", Configuration(POLICY)),
        Rv::UnwrappingKeySizeRange => ("CKR_UNWRAPPING_KEY_SIZE_RANGE", Configuration(KEY)),
        Rv::UnwrappingKeyTypeInconsistent => ("CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT", Configuration(KEY)),
        Rv::UserPinNotInitialized => ("CKR_USER_PIN_NOT_INITIALIZED", Configuration(PIN)),
        Rv::UserTypeInvalid => ("CKR_USER_TYPE_INVALID", Configuration(ABILITY)),
        Rv::WrappingKeySizeRange => ("CKR_WRAPPING_KEY_SIZE_RANGE", Configuration(KEY)),
        Rv::WrappingKeyTypeInconsistent => ("CKR_WRAPPING_KEY_TYPE_INCONSISTENT", Configuration(KEY)),

        // SoftHSM 2.6's answer to a bad ciphertext.
        Rv::GeneralError => ("CKR_GENERAL_ERROR", Ambiguous),
        // Kryoptic's.
        Rv::DeviceError => ("CKR_DEVICE_ERROR", Ambiguous),
        Rv::FunctionFailed => ("CKR_FUNCTION_FAILED", Ambiguous),
        Rv::ArgumentsBad => ("CKR_ARGUMENTS_BAD", Ambiguous),
        Rv::BufferTooSmall => ("CKR_BUFFER_TOO_SMALL", Ambiguous),
        Rv::VendorDefined(_) => ("CKR_VENDOR_DEFINED", Ambiguous),
        // No function that we call may give these: who knows what they mean.
        Rv::CryptokiAlreadyInitialized => ("CKR_CRYPTOKI_ALREADY_INITIALIZED", Ambiguous),
        Rv::FunctionNotParallel => ("CKR_FUNCTION_NOT_PARALLEL", Ambiguous),
        Rv::KeyChanged => ("CKR_KEY_CHANGED", Ambiguous),
        Rv::KeyIndigestible => ("CKR_KEY_INDIGESTIBLE", Ambiguous),
        Rv::KeyNeeded => ("CKR_KEY_NEEDED", Ambiguous),
        Rv::KeyNotNeeded => ("CKR_KEY_NOT_NEEDED", Ambiguous),
        Rv::NoEvent => ("CKR_NO_EVENT", Ambiguous),
        Rv::SavedStateInvalid => ("CKR_SAVED_STATE_INVALID", Ambiguous),
        Rv::StateUnsaveable => ("CKR_STATE_UNSAVEABLE", Ambiguous),
        Rv::UserAlreadyLoggedIn => ("CKR_USER_ALREADY_LOGGED_IN", Ambiguous),

        Rv::UnknownErrorCode(code) => match code {
            0x42 => ("CKR_AEAD_DECRYPT_FAILED", BadInput),
            0x201 => ("CKR_TOKEN_RESOURCE_EXCEEDED", Transient),
            0x202 => ("CKR_OPERATION_CANCEL_FAILED", SessionGone),
            0x203 => ("CKR_KEY_EXHAUSTED", Configuration(KEY)),
            0x204 => ("CKR_PENDING", SessionGone),
            0x205 => ("CKR_SESSION_ASYNC_NOT_SUPPORTED", Configuration(ABILITY)),
            0x206 => ("CKR_SEED_RANDOM_REQUIRED", Configuration(POLICY)),
            0x207 => ("CKR_OPERATION_NOT_VALIDATED", Configuration(POLICY)),
            0x208 => ("CKR_TOKEN_NOT_INITIALIZED", TokenGone),
            0x209 => ("CKR_PARAMETER_SET_NOT_SUPPORTED", Configuration(ABILITY)),
            _ => ("a code of no standard", Ambiguous),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cryptoki::{context::Function, error::Rv};

    use super::*;

    fn code(number: u64) -> RvError {
        match Rv::from(number) {
            Rv::Error(code) => code,
            Rv::Ok => panic!("no error"),
        }
    }

    /// Every code that PKCS#11 2.40 to 3.2 defines: all of the header's numbers, and no others, have a name of their own.
    #[test]
    fn every_standard_code_has_one_row_of_its_own() {
        let mut numbers = BTreeMap::new();
        for number in 1..0x1000 {
            let (name, _) = row(code(number));
            if name.starts_with("CKR_") {
                assert_eq!(numbers.insert(name, number), None, "{name} twice");
            }
        }
        assert_eq!(numbers.len(), 103, "{numbers:#x?}");
        let spots = [
            ("CKR_CANCEL", 0x1),
            ("CKR_GENERAL_ERROR", 0x5),
            ("CKR_DEVICE_ERROR", 0x30),
            ("CKR_ENCRYPTED_DATA_INVALID", 0x40),
            ("CKR_AEAD_DECRYPT_FAILED", 0x42),
            ("CKR_KEY_HANDLE_INVALID", 0x60),
            ("CKR_OPERATION_ACTIVE", 0x90),
            ("CKR_PIN_LOCKED", 0xa4),
            ("CKR_SESSION_HANDLE_INVALID", 0xb3),
            ("CKR_TOKEN_NOT_PRESENT", 0xe0),
            ("CKR_USER_NOT_LOGGED_IN", 0x101),
            ("CKR_CRYPTOKI_NOT_INITIALIZED", 0x190),
            ("CKR_FUNCTION_REJECTED", 0x200),
            ("CKR_PARAMETER_SET_NOT_SUPPORTED", 0x209),
        ];
        for (name, number) in spots {
            assert_eq!(numbers[name], number, "{name}");
        }
    }

    #[test]
    fn codes_of_vendors_and_of_nobody_are_ambiguous() {
        for number in [0x4, 0xdead, VENDOR_DEFINED - 1, VENDOR_DEFINED, VENDOR_DEFINED + 7, u64::MAX] {
            assert_eq!(row(code(number)).1, Sense::Ambiguous, "{number:#x}");
        }
    }

    #[test]
    fn an_error_names_the_function_and_the_code() {
        let error = |number| said(&Error::Pkcs11(code(number), Function::Decrypt));
        assert_eq!(error(0x30), "C_Decrypt: CKR_DEVICE_ERROR");
        assert_eq!(error(0x201), "C_Decrypt: CKR_TOKEN_RESOURCE_EXCEEDED (0x201)");
        assert_eq!(error(VENDOR_DEFINED + 0x12), "C_Decrypt: CKR_VENDOR_DEFINED + 0x12");
        assert_eq!(error(0xdead), "C_Decrypt: a code of no standard (0xdead)");
        let failure = Failure::from(Error::Pkcs11(code(0x70), Function::DecryptInit)).of("key \"a\"");
        assert_eq!(
            failure.to_string(),
            format!("key \"a\": C_DecryptInit: CKR_MECHANISM_INVALID. {ABILITY}")
        );
    }
}

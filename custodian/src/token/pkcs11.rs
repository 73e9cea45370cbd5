//! The PKCS#11 module: loading it, finding the token, logging in, sessions. Runs in the worker only.

use std::path::Path;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::Mechanism,
    object::ObjectHandle,
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};
use custodian_proto::{key::KeyWrapping, secret::Secret};
use zeroize::Zeroizing;

use super::{
    StartError, TokenSelect,
    mechanism::{oaep, signature_to_der},
};

/// Longest label of a token, in bytes (PKCS#11 `CK_TOKEN_INFO`).
const MAX_LABEL: usize = 32;

/// A token in a loaded module.
pub(super) struct Module {
    pkcs11: Pkcs11,
    slot: Slot,
    pub(super) label: String,
    pub(super) model: String,
}

/// A session that belongs to one thread.
pub(super) struct Hands {
    pub(super) session: Session,
}

impl Module {
    /// Loads the module and finds the token. Does not log in.
    pub(super) fn open(path: &Path, select: &TokenSelect) -> Result<Self, StartError> {
        let pkcs11 = load(path)?;
        let (slot, info) = choose(&pkcs11, path, select)?;
        let (label, model) = match info {
            Some(info) => (info.label().to_owned(), format!("{} {}", info.manufacturer_id(), info.model())),
            None => (format!("slot {slot}"), "token information unreadable".to_owned()),
        };
        Ok(Self { pkcs11, slot, label, model })
    }

    /// Logs the whole process in, once. The login lasts as long as a session is open: keep the one returned.
    pub(super) fn login(&self, pin: &Secret) -> Result<Hands, StartError> {
        if self.info().is_some_and(|info| info.user_pin_locked()) {
            return Err(StartError::Pin(self.locked()));
        }
        let session = self.pkcs11.open_ro_session(self.slot).map_err(|error| {
            StartError::Token(format!("the token {:?} opens no session: {error}", self.label))
        })?;
        match session.login(UserType::User, Some(&AuthPin::from(pin.expose()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(Hands { session }),
            Err(error) => Err(self.login_refused(&error)),
        }
    }

    /// Opens a session for one thread.
    pub(super) fn hands(&self) -> Result<Hands, Error> {
        Ok(Hands { session: self.pkcs11.open_ro_session(self.slot)? })
    }

    /// Opens a session that can make objects that stay.
    pub(super) fn making_hands(&self) -> Result<Hands, Error> {
        Ok(Hands { session: self.pkcs11.open_rw_session(self.slot)? })
    }

    /// Ends the use of the module. Only when every session is closed: modules crash otherwise.
    pub(super) fn finalize(self) -> Result<(), Error> {
        self.pkcs11.finalize()
    }

    fn info(&self) -> Option<TokenInfo> {
        self.pkcs11.get_token_info(self.slot).ok()
    }

    fn locked(&self) -> String {
        format!(
            "the PIN of the token {:?} is locked after too many wrong tries. The security officer can set it anew: \
             pkcs11-tool --module MODULE --login --login-type so --init-pin",
            self.label
        )
    }

    fn login_refused(&self, error: &Error) -> StartError {
        let label = &self.label;
        let Error::Pkcs11(code, _) = error else {
            return StartError::Token(format!("cannot log in to the token {label:?}: {error}"));
        };
        match code {
            RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid => {
                let left = match self.info() {
                    Some(info) if info.user_pin_locked() => "It is locked now",
                    Some(info) if info.user_pin_final_try() => {
                        "ONE try is left: the next wrong PIN locks the token"
                    }
                    Some(info) if info.user_pin_count_low() => "Fewer tries are left before it locks",
                    _ => "The token does not say how many tries are left",
                };
                StartError::Pin(format!(
                    "the token {label:?} refuses the PIN as wrong. {left}. It is not tried again: correct the PIN, then \
                     start the custodian"
                ))
            }
            RvError::PinLocked => StartError::Pin(self.locked()),
            RvError::PinExpired => StartError::Pin(format!(
                "the PIN of the token {label:?} has expired: set a new one with the token's tools"
            )),
            RvError::UserPinNotInitialized => StartError::Pin(format!(
                "the token {label:?} has no user PIN yet: the security officer sets it, e.g. with pkcs11-tool --init-pin"
            )),
            _ => StartError::Token(format!("cannot log in to the token {label:?}: {error}")),
        }
    }
}

impl Hands {
    /// C_Decrypt with OAEP. The plaintext is overwritten when dropped.
    pub(super) fn decrypt(
        &self,
        key: ObjectHandle,
        wrapping: KeyWrapping,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        // Calls C_Decrypt twice: for the length, then for the plaintext. In SoftHSM the first costs nothing. A module
        // that computes each time is half as fast: then C_Decrypt would have to be called through cryptoki-sys.
        self.session.decrypt(&oaep(wrapping), key, ciphertext).map(Zeroizing::new)
    }

    /// C_Sign with ECDSA. `Ok(None)` if what came back is no signature.
    pub(super) fn sign(&self, key: ObjectHandle, digest: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(signature_to_der(&self.session.sign(&Mechanism::Ecdsa, key, digest)?))
    }
}

/// Loads and initialises a module.
pub(super) fn load(path: &Path) -> Result<Pkcs11, StartError> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(StartError::Token(format!(
            "the PKCS#11 module {shown} is not an absolute path. A module is never searched for: give its full path, \
             e.g. /usr/lib/softhsm/libsofthsm2.so"
        )));
    }
    if let Err(error) = path.metadata() {
        return Err(StartError::Token(format!(
            "cannot find the PKCS#11 module {shown}: {error}. Install the token's software or correct the path"
        )));
    }
    let pkcs11 = Pkcs11::new(path).map_err(|error| {
        StartError::Token(format!(
            "{shown} is no PKCS#11 module for this machine: {error}. Give the shared library that the token's vendor \
             names as its PKCS#11 module"
        ))
    })?;
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(pkcs11),
        Err(error) => Err(StartError::Token(format!(
            "the PKCS#11 module {shown} does not initialise: {error}. Check its own configuration (for SoftHSM the \
             file that SOFTHSM2_CONF names) and that this user may read it"
        ))),
    }
}

/// Finds the one token that is meant. Without its information only if it was chosen by its slot.
fn choose(
    pkcs11: &Pkcs11,
    path: &Path,
    select: &TokenSelect,
) -> Result<(Slot, Option<TokenInfo>), StartError> {
    let slots = pkcs11
        .get_slots_with_token()
        .map_err(|error| StartError::Token(format!("{} lists no tokens: {error}", path.display())))?;
    let mut found = Vec::new();
    let mut unreadable = Vec::new();
    for slot in slots {
        match pkcs11.get_token_info(slot) {
            Ok(info) if info.token_initialized() => found.push((slot, info)),
            Ok(_) => {}
            Err(_) => unreadable.push(slot),
        }
    }
    let labels: Vec<_> = found
        .iter()
        .map(|(slot, info)| format!("{:?} (serial {}) in slot {slot}", info.label(), info.serial_number()))
        .collect();
    let (what, wanted): (_, Vec<_>) = match select {
        TokenSelect::Label(label) => (
            format!("label {label:?}"),
            found.into_iter().filter(|(_, info)| info.label() == label).collect(),
        ),
        TokenSelect::Serial(serial) => (
            format!("serial {serial:?}"),
            found.into_iter().filter(|(_, info)| info.serial_number() == serial).collect(),
        ),
        TokenSelect::Slot(number) => {
            if let Some(slot) = unreadable.iter().find(|slot| slot.id() == *number) {
                return Ok((*slot, None));
            }
            (format!("slot {number}"), found.into_iter().filter(|(slot, _)| slot.id() == *number).collect())
        }
    };
    let path = path.display();
    let mut there = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    if !unreadable.is_empty() {
        let slots: Vec<_> = unreadable.iter().map(ToString::to_string).collect();
        there = format!(
            "{there}; what is in slot {} cannot be read: choose it by slot",
            slots.join(" and in slot ")
        );
    }
    let mut wanted = wanted.into_iter();
    match (wanted.next(), wanted.next()) {
        (Some((slot, info)), None) => Ok((slot, Some(info))),
        (None, _) => Err(StartError::Token(format!(
            "there is no token with {what} in {path}. Tokens there: {there}. Correct the configuration, or check that \
             the token is connected and this user may use it"
        ))),
        (Some(_), Some(_)) => Err(StartError::Token(format!(
            "more than one token has {what} in {path}. Tokens there: {there}. Choose by serial"
        ))),
    }
}

/// Initialises the first free slot.
pub(super) fn init_token(path: &Path, label: &str, so_pin: &Secret, pin: &Secret) -> Result<(), StartError> {
    if label.is_empty() || label.len() > MAX_LABEL {
        return Err(StartError::Token(format!(
            "a token's label has 1 to {MAX_LABEL} bytes, unlike {label:?}"
        )));
    }
    let pkcs11 = load(path)?;
    let shown = &path.display();
    let fail = |what: &'static str| {
        move |error: Error| {
            StartError::Token(format!("cannot make the token {label:?} in {shown}: {what}: {error}"))
        }
    };
    let mut free = None;
    for slot in pkcs11.get_slots_with_token().map_err(fail("listing the slots"))? {
        let info = pkcs11.get_token_info(slot).map_err(fail("reading a slot"))?;
        if info.token_initialized() && info.label() == label {
            return Err(StartError::Token(format!(
                "there is a token {label:?} in {shown} already: use it, or choose another label"
            )));
        }
        if !info.token_initialized() && free.is_none() {
            free = Some(slot);
        }
    }
    let slot = free.ok_or_else(|| {
        StartError::Token(format!("{shown} has no slot with a token that is not initialised yet"))
    })?;
    let so_pin = AuthPin::from(so_pin.expose());
    pkcs11.init_token(slot, &so_pin, label).map_err(fail("initialising (is the PIN too short?)"))?;
    let session = pkcs11.open_rw_session(slot).map_err(fail("opening a session"))?;
    session.login(UserType::So, Some(&so_pin)).map_err(fail("logging in as security officer"))?;
    session
        .init_pin(&AuthPin::from(pin.expose()))
        .map_err(fail("setting the user PIN (is it too short?)"))?;
    drop(session);
    pkcs11.finalize().map_err(fail("finishing"))
}

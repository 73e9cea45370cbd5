//! The PKCS#11 module: loading it, finding the token, logging in, sessions. Runs in the worker only.

use std::{path::Path, sync::Arc};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::ObjectHandle,
    session::{Session, UserType},
    slot::{Limit, Slot, TokenInfo},
    types::AuthPin,
};
use custodian_proto::{
    key::KeyWrapping,
    secret::Secret,
    sign::{DigestToSign, SignatureAlgorithm},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    KeyKind, StartError, TokenDescription, TokenSelect,
    decrypt_once::DecryptOnce,
    elf,
    mechanism::{decrypting, signature_to_der, signing},
    rv::{Failure, said},
};

/// Longest label of a token, in bytes (PKCS#11 `CK_TOKEN_INFO`).
const MAX_LABEL: usize = 32;

/// A token in a loaded module.
pub(super) struct Module {
    pkcs11: Pkcs11,
    decrypt_once: DecryptOnce,
    slot: Slot,
    pub(super) label: String,
    pub(super) model: String,
    pub(super) description: Arc<TokenDescription>,
}

/// A session that belongs to one thread.
pub(super) struct Hands {
    pub(super) session: Session,
    decrypt_once: DecryptOnce,
    /// The token that the session is of.
    pub(super) token: Arc<TokenDescription>,
}

impl Module {
    /// Loads the module and finds the token. Does not log in.
    pub(super) fn open(path: &Path, select: &TokenSelect) -> Result<Self, StartError> {
        let pkcs11 = load(path)?;
        let decrypt_once = DecryptOnce::of(path).map_err(|error| {
            StartError::Token(format!("{} has no C_Decrypt: {}", path.display(), Failure::from(error)))
        })?;
        let (slot, info) = choose(&pkcs11, path, select)?;
        let description = Arc::new(info.as_ref().map(described).unwrap_or_default());
        let (label, model) = match info {
            Some(info) => (info.label().to_owned(), format!("{} {}", info.manufacturer_id(), info.model())),
            None => (format!("slot {slot}"), "token information unreadable".to_owned()),
        };
        Ok(Self { pkcs11, decrypt_once, slot, label, model, description })
    }

    /// Logs the whole process in, once. The login lasts as long as a session is open: keep the one returned.
    ///
    /// The PIN is not kept, so no process logs in twice: the life of a worker is one login, and no handle outlives it. A
    /// login that ends takes the worker with it. The next one reads the PIN, finds the keys anew and computes their ids
    /// from what the token says now.
    pub(super) fn login(&self, pin: &Secret) -> Result<Hands, StartError> {
        let before = self.info();
        if before.as_ref().is_some_and(TokenInfo::user_pin_locked) {
            return Err(StartError::Pin(self.locked()));
        }
        let session = self.pkcs11.open_ro_session(self.slot).map_err(|error| self.no_session(&error))?;
        match session.login(UserType::User, Some(&AuthPin::from(pin.expose()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(self.with(session)),
            Err(error) => Err(self.login_refused(&error, before.as_ref())),
        }
    }

    /// Opens the sessions of `wanted` threads, or of as many as the token has room for beside the login's.
    pub(super) fn many_hands(&self, wanted: usize) -> Result<Vec<Hands>, StartError> {
        let room = match self.info().map(|info| info.max_session_count()) {
            // One keeps the login.
            Some(Limit::Max(most)) => usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(1),
            _ => usize::MAX,
        };
        let mut many = Vec::new();
        while many.len() < wanted.min(room) {
            match self.hands() {
                Ok(hands) => many.push(hands),
                // What the token says of its limits is not always so, and others may have sessions, too.
                Err(Error::Pkcs11(RvError::SessionCount, _)) => break,
                Err(error) => return Err(self.no_session(&error)),
            }
        }
        if many.is_empty() {
            return Err(StartError::Token(format!(
                "the token {:?} has no room for the two sessions that a worker needs: one keeps the login, one works. \
                 End other programs that use the token, or raise its limit of sessions (ulMaxSessionCount)",
                self.label
            )));
        }
        Ok(many)
    }

    /// Opens a session for one thread.
    pub(super) fn hands(&self) -> Result<Hands, Error> {
        Ok(self.with(self.pkcs11.open_ro_session(self.slot)?))
    }

    /// Opens a session that can make objects that stay.
    pub(super) fn making_hands(&self) -> Result<Hands, Error> {
        Ok(self.with(self.pkcs11.open_rw_session(self.slot)?))
    }

    fn with(&self, session: Session) -> Hands {
        Hands { session, decrypt_once: self.decrypt_once, token: Arc::clone(&self.description) }
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
             pkcs11-tool --module MODULE --login --login-type so --init-pin. Then start the custodian",
            self.label
        )
    }

    fn no_session(&self, error: &Error) -> StartError {
        StartError::Token(format!("the token {:?} opens no session: {}", self.label, Failure::from(error)))
    }

    /// Why a login failed. Whatever may have cost a try counts as a refused PIN: it is not tried again.
    fn login_refused(&self, error: &Error, before: Option<&TokenInfo>) -> StartError {
        let label = &self.label;
        let Error::Pkcs11(code, _) = error else {
            return StartError::Token(format!("cannot log in to the token {label:?}: {}", said(error)));
        };
        match code {
            RvError::PinIncorrect => StartError::Pin(format!(
                "the token {label:?} refuses the PIN as wrong. {}. It is not tried again: correct the PIN, then start the \
                 custodian",
                self.tries_left()
            )),
            RvError::PinLenRange | RvError::PinInvalid => {
                let lengths = self.info().map_or_else(String::new, |info| {
                    format!(" It takes {} to {} bytes.", info.min_pin_length(), info.max_pin_length())
                });
                StartError::Pin(format!(
                    "the token {label:?} takes no PIN like this: it is too short, too long, or has characters that the \
                     token does not know.{lengths} {}. It is not tried again: correct the PIN, then start the custodian",
                    self.tries_left()
                ))
            }
            RvError::PinLocked => StartError::Pin(self.locked()),
            RvError::PinExpired => StartError::Pin(self.expired()),
            RvError::UserPinNotInitialized => StartError::Pin(format!(
                "the token {label:?} has no user PIN yet: the security officer sets it, e.g. with pkcs11-tool --module \
                 MODULE --login --login-type so --init-pin"
            )),
            _ => {
                let said = said(error);
                match (before, self.info()) {
                    (Some(before), Some(after)) if fewer_tries(before, &after) => StartError::Pin(format!(
                        "cannot log in to the token {label:?}: {said}, and it counts that as a wrong PIN. {}. It is not \
                         tried again: correct the PIN, then start the custodian",
                        self.tries_left()
                    )),
                    _ => StartError::Token(format!("cannot log in to the token {label:?}: {said}")),
                }
            }
        }
    }

    /// Why a token that let us in does not let us look: some do so when the PIN must be changed.
    pub(super) fn unreadable(&self, failure: Failure) -> StartError {
        match failure.code {
            Some(RvError::PinExpired) => StartError::Pin(self.expired()),
            _ => StartError::Token(failure.of(format!("token {:?}", self.label)).to_string()),
        }
    }

    fn expired(&self) -> String {
        format!(
            "the PIN of the token {:?} has expired. Set a new one (pkcs11-tool --module MODULE --login --change-pin), put \
             it where the custodian reads it, then start the custodian",
            self.label
        )
    }

    fn tries_left(&self) -> &'static str {
        match self.info() {
            Some(info) if info.user_pin_locked() => "It is locked now",
            Some(info) if info.user_pin_final_try() => "ONE try is left: the next wrong PIN locks the token",
            Some(info) if info.user_pin_count_low() => "Fewer tries are left before it locks",
            _ => "The token does not say how many tries are left",
        }
    }
}

/// Whether a try was lost between the two.
fn fewer_tries(before: &TokenInfo, after: &TokenInfo) -> bool {
    let lost = |flag: fn(&TokenInfo) -> bool| flag(after) && !flag(before);
    lost(TokenInfo::user_pin_count_low)
        || lost(TokenInfo::user_pin_final_try)
        || lost(TokenInfo::user_pin_locked)
}

impl Hands {
    /// C_Decrypt as this wrapping wants it. The plaintext is overwritten when dropped.
    pub(super) fn decrypt(
        &self,
        key: ObjectHandle,
        wrapping: KeyWrapping,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let begun = self.session.decrypt_init(&decrypting(wrapping), key);
        begun.map_err(|error| Failure::from(error).before())?;
        Ok(self.decrypt_once.decrypt(&self.session, ciphertext)?)
    }

    /// C_Sign with ECDSA over SHA-256, or with Ed25519. `Ok(None)` if what came back is no signature.
    pub(super) fn sign(
        &self,
        (key, kind): (ObjectHandle, KeyKind),
        message: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        if kind == KeyKind::Ed25519Sign {
            let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            return self.session.sign(&pure, key, message).map(Some);
        }
        let digest = Sha256::digest(message);
        Ok(signature_to_der(&self.session.sign(&Mechanism::Ecdsa, key, &digest)?))
    }

    /// C_Sign over a digest. `Ok(None)` if what came back is no signature.
    pub(super) fn sign_digest(
        &self,
        key: ObjectHandle,
        digest: &DigestToSign,
    ) -> Result<Option<Vec<u8>>, Error> {
        let signature = self.session.sign(&signing(digest.algorithm()), key, digest.digest())?;
        Ok(match digest.algorithm() {
            SignatureAlgorithm::RsaPss(_) => Some(signature),
            SignatureAlgorithm::EcdsaP256 => signature_to_der(&signature),
        })
    }
}

fn described(info: &TokenInfo) -> TokenDescription {
    TokenDescription {
        label: info.label().to_owned(),
        manufacturer: info.manufacturer_id().to_owned(),
        model: info.model().to_owned(),
        serial: info.serial_number().to_owned(),
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
    let metadata = path.metadata().map_err(|error| {
        StartError::Token(format!(
            "cannot find the PKCS#11 module {shown}: {error}. Install the token's software or correct the path"
        ))
    })?;
    if !metadata.is_file() {
        return Err(StartError::Token(format!("the PKCS#11 module {shown} is no file. Correct the path")));
    }
    elf::check(path).map_err(|why| {
        StartError::Token(format!(
            "{shown} is no PKCS#11 module for this machine: {why}. Give the shared library that the token's vendor names as \
             its PKCS#11 module for this machine"
        ))
    })?;
    let pkcs11 = Pkcs11::new(path).map_err(|error| {
        StartError::Token(format!(
            "{shown} is no PKCS#11 module, or lacks something: {error}. Give the shared library that the token's vendor \
             names as its PKCS#11 module, and see that what it needs is installed: ldd {shown}"
        ))
    })?;
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(pkcs11),
        Err(error) => Err(StartError::Token(format!(
            "the PKCS#11 module {shown} does not initialise: {}. Check its own configuration (for SoftHSM the \
             file that SOFTHSM2_CONF names) and that this user may read it",
            said(&error)
        ))),
    }
}

/// Finds the one token that is meant. Without its information only if it was chosen by its slot.
fn choose(
    pkcs11: &Pkcs11,
    path: &Path,
    select: &TokenSelect,
) -> Result<(Slot, Option<TokenInfo>), StartError> {
    let slots = pkcs11.get_slots_with_token().map_err(|error| {
        StartError::Token(format!("{} lists no tokens: {}", path.display(), said(&error)))
    })?;
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
            StartError::Token(format!("cannot make the token {label:?} in {shown}: {what}: {}", said(&error)))
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

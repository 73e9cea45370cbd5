//! A token in a loaded module: found, and logged in to.

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as CryptokiError, RvError},
    mechanism::MechanismType,
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};
use custodian_proto::{
    pkcs11::{Encoded, KeyUri},
    secret::Secret,
};

use super::cannot_sign;
use crate::error::Result;

/// A token.
pub(super) struct Card {
    // Closed before the module ends: some crash otherwise.
    session: Session,
    module: Module,
    slot: Slot,
    info: TokenInfo,
    /// For keys that want it before each signature.
    pin: Option<Secret>,
}

/// A loaded module. It ends when it is dropped.
struct Module(Pkcs11);

/// How to log in to a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Login {
    /// What the token signs, it signs for anybody.
    NotNeeded,
    /// The reader has a keypad of its own for the PIN: of this token.
    AtTheReader(String),
    /// With a PIN; what it is called.
    WithPin(String),
}

impl Card {
    /// Loads the module and finds the one token that the URI names.
    pub(super) fn open(uri: &KeyUri) -> Result<Self> {
        let module = load(uri)?;
        let (slot, info) = choose(&module.0, uri)?;
        if info.user_pin_locked() {
            return Err(locked(&info));
        }
        let session = module.0.open_ro_session(slot).map_err(|error| {
            cannot_sign(format!("the token {:?} opens no session: {error}", info.label()))
        })?;
        Ok(Self { session, module, slot, info, pin: None })
    }

    pub(super) fn login_needed(&self) -> Login {
        if !self.info.login_required() {
            return Login::NotNeeded;
        }
        if self.info.protected_authentication_path() {
            return Login::AtTheReader(self.label().to_owned());
        }
        let tries = match () {
            () if self.info.user_pin_final_try() => ", LAST TRY before it locks",
            () if self.info.user_pin_count_low() => ", few tries left",
            () => "",
        };
        Login::WithPin(format!("PIN of the token {:?}{tries}", self.info.label()))
    }

    /// Logs in. A PIN that was refused is never tried again: the next one could lock the token.
    pub(super) fn login(&mut self, pin: Option<Secret>) -> Result<()> {
        self.pin = pin;
        if self.info.login_required() { self.show_pin(UserType::User) } else { Ok(()) }
    }

    /// The PIN is not needed any more.
    pub(super) fn forget_pin(&mut self) {
        self.pin = None;
    }

    /// Shows the PIN once more, for the one operation that was begun in this session.
    pub(super) fn show_pin_again(&self) -> Result<()> {
        self.show_pin(UserType::ContextSpecific)
    }

    fn show_pin(&self, who: UserType) -> Result<()> {
        let pin = self.pin.as_ref().map(|pin| AuthPin::from(pin.expose()));
        match self.session.login(who, pin.as_ref()) {
            Ok(()) | Err(CryptokiError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => Err(self.refused(&error)),
        }
    }

    fn refused(&self, error: &CryptokiError) -> crate::Error {
        let label = self.info.label();
        let CryptokiError::Pkcs11(code, _) = error else {
            return cannot_sign(format!("cannot log in to the token {label:?}: {error}"));
        };
        match code {
            RvError::PinIncorrect => {
                let now = self.module.0.get_token_info(self.slot).ok();
                let left = match &now {
                    Some(info) if info.user_pin_locked() => return locked(info),
                    Some(info) if info.user_pin_final_try() => ": ONE try is left before it locks",
                    Some(info) if info.user_pin_count_low() => ": few tries are left before it locks",
                    _ => "",
                };
                cannot_sign(format!("the token {label:?} refuses the PIN as wrong{left}"))
                    .hint("most tokens lock after three wrong PINs in a row: be sure of the next one")
            }
            RvError::PinLenRange | RvError::PinInvalid => {
                let (min, max) = (self.info.min_pin_length(), self.info.max_pin_length());
                cannot_sign(format!(
                    "the token {label:?} takes no PIN like this: it has {min} to {max} characters"
                ))
            }
            RvError::PinLocked => locked(&self.info),
            RvError::PinExpired => cannot_sign(format!("the PIN of the token {label:?} has expired"))
                .hint("set a new one: pkcs11-tool --module MODULE --login --change-pin"),
            RvError::UserPinNotInitialized => cannot_sign(format!("the token {label:?} has no PIN yet")),
            _ => cannot_sign(format!("cannot log in to the token {label:?}: {error}")),
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// For messages.
    pub(super) fn label(&self) -> &str {
        self.info.label()
    }

    /// What it can do.
    pub(super) fn mechanisms(&self) -> Result<Vec<MechanismType>> {
        let found = self.module.0.get_mechanism_list(self.slot);
        found.map_err(|error| {
            cannot_sign(format!("the token {:?} tells no mechanisms: {error}", self.label()))
        })
    }
}

fn locked(info: &TokenInfo) -> crate::Error {
    cannot_sign(format!("the PIN of the token {:?} is locked after too many wrong tries", info.label()))
        .hint("set it anew with the PUK: pkcs11-tool --module MODULE --unlock-pin, or the vendor's program")
}

fn load(uri: &KeyUri) -> Result<Module> {
    let shown = uri.module.display();
    let metadata = uri.module.metadata();
    let metadata = metadata.map_err(|why| {
        cannot_sign(format!("there is no PKCS #11 module {shown}: {why}"))
            .hint("install the token's software, or correct module-path")
    })?;
    if !metadata.is_file() {
        return Err(
            cannot_sign(format!("the PKCS #11 module {shown} is no file")).hint("correct module-path")
        );
    }
    let pkcs11 = Pkcs11::new(&uri.module).map_err(|why| {
        cannot_sign(format!("{shown} is no PKCS #11 module for this machine, or lacks something: {why}"))
            .hint(format!("give the library that the token's vendor names; ldd {shown} tells what it needs"))
    })?;
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(CryptokiError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(Module(pkcs11)),
        Err(why) => Err(cannot_sign(format!("the PKCS #11 module {shown} does not start: {why}"))),
    }
}

/// Finds the one token that is meant.
fn choose(pkcs11: &Pkcs11, uri: &KeyUri) -> Result<(Slot, TokenInfo)> {
    let shown = uri.module.display();
    let slots = pkcs11.get_slots_with_token();
    let slots = slots.map_err(|why| cannot_sign(format!("{shown} lists no tokens: {why}")))?;
    let there: Vec<_> = slots
        .into_iter()
        .filter_map(|slot| Some((slot, pkcs11.get_token_info(slot).ok()?)))
        .filter(|(_, info)| info.token_initialized())
        .collect();
    let name = |(slot, info): &(Slot, TokenInfo)| {
        let encoded = |text: &str| Encoded(text.as_bytes()).to_string();
        let (label, serial) = (encoded(info.label()), encoded(info.serial_number()));
        format!("token={label};serial={serial};slot-id={}", slot.id())
    };
    let all = there.iter().map(name).collect::<Vec<_>>().join(", ");
    let mut fitting: Vec<_> = there.into_iter().filter(|(slot, info)| is_meant(uri, *slot, info)).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => {
            Err(cannot_sign(format!("several tokens fit: {all}"))
                .hint("name one with token, serial or slot-id"))
        }
        (None, _) if all.is_empty() => {
            Err(cannot_sign(format!("{shown} sees no token")).hint("put the card into the reader"))
        }
        (None, _) => Err(cannot_sign(format!("no token fits; there are: {all}"))
            .hint("put the right card into the reader, or correct the URI")),
    }
}

fn is_meant(uri: &KeyUri, slot: Slot, info: &TokenInfo) -> bool {
    let fits = |wanted: &Option<String>, there: &str| wanted.as_deref().is_none_or(|wanted| wanted == there);
    fits(&uri.token.label, info.label())
        && fits(&uri.token.serial, info.serial_number())
        && fits(&uri.manufacturer, info.manufacturer_id())
        && fits(&uri.model, info.model())
        && uri.token.slot.is_none_or(|wanted| wanted == slot.id())
}

impl Drop for Card {
    fn drop(&mut self) {
        // Cards stay open for the next program otherwise.
        if self.info.login_required() {
            self.session.logout().ok();
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // Whatever it says, this process has no further use for it.
        self.0.clone().finalize().ok();
    }
}

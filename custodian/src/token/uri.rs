//! PKCS#11 URIs (RFC 7512), as far as they name a token: `pkcs11:token=custodian;serial=01ab?module-path=/usr/lib/hsm.so`.
//!
//! An attribute that we do not compare is refused, not passed over: another token than the one meant could be taken.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::TokenSelect;

const SCHEME: &str = "pkcs11:";

/// The file scheme of `pin-source`.
const FILE: &str = "file:";

/// What a URI says of a token. At least one of label, serial and slot is there, and not both of the last two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenUri {
    /// `token`.
    pub label: Option<String>,
    /// `serial`.
    pub serial: Option<String>,
    /// `slot-id`.
    pub slot: Option<u64>,
    /// `module-path`; absolute.
    pub module: Option<PathBuf>,
    /// `pin-source`, if it is a file; absolute.
    pub pin_file: Option<PathBuf>,
}

impl TokenUri {
    /// Reads a URI. `Err` says what is wrong with it, and never repeats the value of an attribute: it may be a PIN.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix(SCHEME).ok_or("it does not begin with pkcs11:")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut attributes = BTreeMap::new();
        for part in path.split(';').chain(query.split('&')).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or("a part of it has no '='")?;
            let value = decode(value).ok_or_else(|| format!("{name} is not percent-encoded UTF-8"))?;
            if attributes.insert(name, value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let uri = Self {
            label: attributes.remove("token"),
            serial: attributes.remove("serial"),
            slot: attributes.remove("slot-id").map(|slot| number(&slot)).transpose()?,
            module: attributes
                .remove("module-path")
                .map(|path| absolute("module-path", &path))
                .transpose()?,
            pin_file: attributes.remove("pin-source").map(|source| pin_file(&source)).transpose()?,
        };
        if let Some(name) = attributes.into_keys().next() {
            return Err(refusal(name));
        }
        match (&uri.label, &uri.serial, uri.slot) {
            (None, None, None) => Err("it names no token: give token=LABEL or serial=NUMBER".to_owned()),
            // Only the label is compared afterwards.
            (_, Some(_), Some(_)) => Err("give serial or slot-id, not both".to_owned()),
            _ => Ok(uri),
        }
    }

    /// How the worker finds the token.
    pub fn select(&self) -> Option<TokenSelect> {
        // The label is compared once the token has been found.
        match (&self.serial, self.slot, &self.label) {
            (Some(serial), _, _) => Some(TokenSelect::Serial(serial.clone())),
            (None, Some(slot), _) => Some(TokenSelect::Slot(slot)),
            (None, None, Some(label)) => Some(TokenSelect::Label(label.clone())),
            (None, None, None) => None,
        }
    }
}

/// The URI of a token, with its label if that is known.
pub(super) fn show(select: &TokenSelect, label: Option<&str>, module: &Path) -> String {
    let (name, value) = match select {
        TokenSelect::Label(label) => ("token", label.clone()),
        TokenSelect::Serial(serial) => ("serial", serial.clone()),
        TokenSelect::Slot(slot) => ("slot-id", slot.to_string()),
    };
    let mut uri = SCHEME.to_owned();
    if let Some(label) = label.filter(|_| name != "token") {
        encode(&mut uri, "token", label);
        uri.push(';');
    }
    encode(&mut uri, name, &value);
    uri.push('?');
    encode(&mut uri, "module-path", &module.display().to_string());
    uri
}

fn refusal(name: &str) -> String {
    match name {
        "pin-value" => {
            "it holds a PIN (pin-value), and a PIN never stands in the configuration: change the PIN, and give \
             pin_file, pin_credential, pin_prompt or pin-source=file:PATH"
                .to_owned()
        }
        "object" | "type" | "id" => format!("{name} names a key, and a token is to be named"),
        "module-name" => "module-name would be searched for: give module-path, an absolute path".to_owned(),
        _ => format!("{name} is not compared: leave it out. token and serial name a token"),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "slot-id is no number".to_owned())
}

fn absolute(name: &str, path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(format!("{name} is no absolute path")) }
}

/// RFC 7512 §2.4 leaves it to us what a `pin-source` may be. A program to run may not.
fn pin_file(source: &str) -> Result<PathBuf, String> {
    let path = source.strip_prefix(FILE).ok_or("pin-source must be file:PATH")?;
    absolute("pin-source", path.strip_prefix("//").unwrap_or(path))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).ok()?;
                decoded[0]
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Appends `name=value`. What RFC 7512 §2.3 does not surely allow in both halves of a URI is encoded.
fn encode(uri: &mut String, name: &str, value: &str) {
    uri.push_str(name);
    uri.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(uri, "%{byte:02X}").ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_named_by_label_or_serial() {
        let uri = "pkcs11:token=The%20Software%20PKCS%2311;serial=4d?module-path=/usr/lib/p.so&pin-source=file:/etc/pin";
        let uri = TokenUri::parse(uri).unwrap();
        assert_eq!(uri.label.as_deref(), Some("The Software PKCS#11"));
        assert_eq!(uri.select(), Some(TokenSelect::Serial("4d".to_owned())));
        assert_eq!(uri.module.as_deref(), Some(Path::new("/usr/lib/p.so")));
        assert_eq!(uri.pin_file.as_deref(), Some(Path::new("/etc/pin")));
        let uri = TokenUri::parse("pkcs11:token=a?pin-source=file:///etc/pin").unwrap();
        assert_eq!(uri.select(), Some(TokenSelect::Label("a".to_owned())));
        assert_eq!(uri.pin_file.as_deref(), Some(Path::new("/etc/pin")));
    }

    #[test]
    fn what_we_do_not_compare_is_refused_by_name_and_no_pin_is_repeated() {
        for (uri, named) in [
            ("pkcs11:token=a?pin-value=4711-secret", "never stands in the configuration"),
            ("pkcs11:token=a;object=key", "object names a key"),
            ("pkcs11:serial=a;slot-id=0", "not both"),
            ("pkcs11:slot-id=first", "no number"),
            ("pkcs11:token=a;slot-description=x", "slot-description is not compared"),
            ("pkcs11:token=a;manufacturer=x", "manufacturer"),
            ("pkcs11:token=a?module-name=p11", "module-path"),
            ("pkcs11:token=a?module-path=lib.so", "no absolute path"),
            ("pkcs11:token=a?pin-source=%7C/bin/pin", "file:PATH"),
            ("pkcs11:token=a;token=b", "twice"),
            ("pkcs11:token=%zz", "percent"),
            ("pkcs11:token=%f", "percent"),
            ("pkcs11:token", "'='"),
            ("pkcs11:", "names no token"),
            ("PKCS11:token=a", "pkcs11:"),
        ] {
            let why = TokenUri::parse(uri).unwrap_err();
            assert!(why.contains(named), "{uri}: {why}");
            assert!(!why.contains("4711"), "{why}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        let module = Path::new("/usr/lib/a b/p;11?.so");
        let shown = show(&TokenSelect::Label("Müller & Söhne; 50%".to_owned()), None, module);
        assert!(shown.is_ascii() && !shown.contains(' '), "{shown}");
        let read = TokenUri::parse(&shown).unwrap();
        assert_eq!(read.label.as_deref(), Some("Müller & Söhne; 50%"));
        assert_eq!(read.module.as_deref(), Some(module));
        let shown = show(&TokenSelect::Slot(7), Some("a"), module);
        assert_eq!(TokenUri::parse(&shown).unwrap().select(), Some(TokenSelect::Slot(7)));
        let shown = show(&TokenSelect::Serial("4d".to_owned()), Some("a"), module);
        let read = TokenUri::parse(&shown).unwrap();
        assert_eq!((read.label.as_deref(), read.serial.as_deref()), (Some("a"), Some("4d")));
    }
}

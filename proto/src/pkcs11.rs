//! PKCS#11 URIs (RFC 7512), as far as they name a token, `pkcs11:token=custodian;serial=01ab?module-path=/usr/lib/hsm.so`, or
//! a private key in one, `pkcs11:token=anna;object=signing?module-path=/usr/lib/card.so`.
//!
//! An attribute that we do not compare is refused, not passed over: another token or key than the one meant could be taken.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
    path::{Path, PathBuf},
};

/// How every such URI begins.
pub const SCHEME: &str = "pkcs11:";

/// Never accepted.
const PIN_VALUE: &str = "pin-value";

/// The file scheme of `pin-source`.
const FILE: &str = "file:";

/// What a URI says of a token. Of a URI that names a token at least one of label, serial and slot is there, and not both of
/// the last two.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
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
    /// Reads the URI of a token.
    ///
    /// # Errors
    /// What is wrong with it; never with the value of an attribute in it, which may be a PIN.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut attributes = Attributes::parse(text)?;
        let uri = Self::take(&mut attributes)?;
        attributes.finish(|name| {
            ["object", "type", "id"]
                .contains(&name)
                .then(|| format!("{name} names a key, and a token is to be named"))
        })?;
        match (&uri.label, &uri.serial, uri.slot) {
            (None, None, None) => Err("it names no token: give token=LABEL or serial=NUMBER".to_owned()),
            // Only the label is compared afterwards.
            (_, Some(_), Some(_)) => Err("give serial or slot-id, not both".to_owned()),
            _ => Ok(uri),
        }
    }

    fn take(attributes: &mut Attributes<'_>) -> Result<Self, String> {
        Ok(Self {
            label: attributes.text("token")?,
            serial: attributes.text("serial")?,
            slot: attributes.text("slot-id")?.map(|slot| number(&slot)).transpose()?,
            module: attributes.text("module-path")?.map(|path| absolute("module-path", &path)).transpose()?,
            pin_file: attributes.text("pin-source")?.map(|source| pin_file(&source)).transpose()?,
        })
    }
}

/// The URI that says this.
impl Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Path| path.display().to_string();
        let path = [
            ("token", self.label.clone()),
            ("serial", self.serial.clone()),
            ("slot-id", self.slot.map(|slot| slot.to_string())),
        ];
        let query = [
            ("module-path", self.module.as_deref().map(shown)),
            ("pin-source", self.pin_file.as_deref().map(|path| format!("{FILE}{}", shown(path)))),
        ];
        f.write_str(SCHEME)?;
        write_attributes(f, path, ';')?;
        if query.iter().any(|(_, value)| value.is_some()) {
            f.write_char('?')?;
        }
        write_attributes(f, query, '&')
    }
}

/// What a URI says of a private key that signs. Everything that is there must fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyUri {
    /// The token. Its module stands beside it: a key is not found without one.
    pub token: TokenUri,
    /// `manufacturer` of the token.
    pub manufacturer: Option<String>,
    /// `model` of the token.
    pub model: Option<String>,
    /// `object`: the key's label.
    pub object: Option<String>,
    /// `id`: the key's `CKA_ID`.
    pub id: Option<Vec<u8>>,
    /// `module-path`; absolute.
    pub module: PathBuf,
}

impl KeyUri {
    /// Reads the URI of a key.
    ///
    /// # Errors
    /// What is wrong with it; never with the value of an attribute in it, which may be a PIN.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut attributes = Attributes::parse(text)?;
        let mut token = TokenUri::take(&mut attributes)?;
        let uri = Self {
            manufacturer: attributes.text("manufacturer")?,
            model: attributes.text("model")?,
            object: attributes.text("object")?,
            id: attributes.0.remove("id"),
            module: token.module.take().ok_or(
                "it names no module: give the library that the token's vendor names, an absolute path, at its end: \
                 ?module-path=/usr/lib/…",
            )?,
            token,
        };
        if attributes.text("type")?.is_some_and(|kind| kind != "private") {
            return Err(
                "it names something else than a private key: type must be private, or left out".to_owned()
            );
        }
        attributes.finish(|_| None)?;
        Ok(uri)
    }
}

/// The attributes of a URI, decoded.
struct Attributes<'t>(BTreeMap<&'t str, Vec<u8>>);

impl<'t> Attributes<'t> {
    fn parse(text: &'t str) -> Result<Self, String> {
        let rest = text.strip_prefix(SCHEME).ok_or("it does not begin with pkcs11:")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut attributes = BTreeMap::new();
        for part in path.split(';').chain(query.split('&')).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or("a part of it has no '='")?;
            let value = decode(value).ok_or_else(|| format!("{} is not percent-encoded", known(name)))?;
            if attributes.insert(name, value).is_some() {
                return Err(format!("{} is given twice", known(name)));
            }
        }
        match attributes.contains_key(PIN_VALUE) {
            // Before anything else that may be wrong: it must be told, and the PIN changed.
            true => Err(refusal(PIN_VALUE)),
            false => Ok(Self(attributes)),
        }
    }

    /// Takes an attribute that is text.
    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        let text = String::from_utf8(value).ok().filter(|text| !text.contains('\0'));
        text.map(Some).ok_or_else(|| format!("{name} is not percent-encoded UTF-8"))
    }

    /// Refuses what is left. `why` may know more of it.
    fn finish(self, why: impl FnOnce(&str) -> Option<String>) -> Result<(), String> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(why(name).unwrap_or_else(|| refusal(name))),
        }
    }
}

/// The attributes of RFC 7512 §2.3. Of another one not even the name is repeated: it may be half of a PIN.
const KNOWN: [&str; 17] = [
    "token",
    "manufacturer",
    "serial",
    "model",
    "library-manufacturer",
    "library-version",
    "library-description",
    "object",
    "type",
    "id",
    "slot-manufacturer",
    "slot-description",
    "slot-id",
    "pin-source",
    PIN_VALUE,
    "module-name",
    "module-path",
];

fn known(name: &str) -> &str {
    KNOWN.into_iter().find(|known| *known == name).unwrap_or("an attribute that is not known here")
}

fn refusal(name: &str) -> String {
    match known(name) {
        PIN_VALUE => "it holds a PIN (pin-value), and whoever sees the URI then has the PIN: a PIN never stands in an \
             argument or in a configuration. Change the PIN, and give a file that has it: pin-source=file:PATH"
            .to_owned(),
        "module-name" => "module-name would be searched for: give module-path, an absolute path".to_owned(),
        name => format!("{name} is not compared: leave it out. token and serial name a token"),
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

fn decode(text: &str) -> Option<Vec<u8>> {
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
    Some(bytes)
}

fn write_attributes<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    attributes: [(&str, Option<String>); N],
    between: char,
) -> fmt::Result {
    let there = attributes.into_iter().filter_map(|(name, value)| Some((name, value?)));
    for (index, (name, value)) in there.enumerate() {
        if index > 0 {
            f.write_char(between)?;
        }
        write!(f, "{name}={}", Encoded(value.as_bytes()))?;
    }
    Ok(())
}

/// A value, percent-encoded: all that RFC 7512 §2.3 does not surely allow in both halves of a URI.
pub struct Encoded<'a>(pub &'a [u8]);

impl Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~/:@".contains(byte) {
                f.write_char(char::from(*byte))
            } else {
                write!(f, "%{byte:02X}")
            }
        })
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
        assert_eq!(uri.serial.as_deref(), Some("4d"));
        assert_eq!(uri.module.as_deref(), Some(Path::new("/usr/lib/p.so")));
        assert_eq!(uri.pin_file.as_deref(), Some(Path::new("/etc/pin")));
        let uri = TokenUri::parse("pkcs11:token=a?pin-source=file:///etc/pin").unwrap();
        assert_eq!((uri.label.as_deref(), uri.serial), (Some("a"), None));
        assert_eq!(uri.pin_file.as_deref(), Some(Path::new("/etc/pin")));
    }

    #[test]
    fn a_key_is_named_as_p11tool_names_it() {
        let uri = "pkcs11:model=PKCS%2315%20emulated;manufacturer=piv_II;serial=0a1b;token=Anna%20B.;id=%02%ff;\
                   object=SIGN%20key;type=private?module-path=/usr/lib/opensc.so";
        let uri = KeyUri::parse(uri).unwrap();
        assert_eq!(
            (uri.model.as_deref(), uri.manufacturer.as_deref()),
            (Some("PKCS#15 emulated"), Some("piv_II"))
        );
        assert_eq!(
            (uri.token.label.as_deref(), uri.token.serial.as_deref()),
            (Some("Anna B."), Some("0a1b"))
        );
        assert_eq!((uri.id.as_deref(), uri.object.as_deref()), (Some(&[2, 0xff][..]), Some("SIGN key")));
        assert_eq!(uri.module, Path::new("/usr/lib/opensc.so"));
        // Whatever is not said need not fit.
        let uri = KeyUri::parse("pkcs11:?module-path=/usr/lib/opensc.so").unwrap();
        assert_eq!((uri.object, uri.id, uri.token.label), (None, None, None));
    }

    #[test]
    fn what_we_do_not_compare_is_refused_by_name_and_no_pin_is_repeated() {
        for (uri, named) in [
            ("pkcs11:token=a?pin-value=4711-secret", "never stands in an argument"),
            ("pkcs11:token=a;object=key", "object names a key"),
            ("pkcs11:serial=a;slot-id=0", "not both"),
            ("pkcs11:slot-id=first", "no number"),
            ("pkcs11:token=a;slot-description=x", "slot-description is not compared"),
            ("pkcs11:token=a;manufacturer=x", "manufacturer"),
            ("pkcs11:token=a;4711=x", "not known here"),
            ("pkcs11:token=a;4711=%", "not known here"),
            ("pkcs11:token=a?module-name=p11", "module-path"),
            ("pkcs11:token=a?module-path=lib.so", "no absolute path"),
            ("pkcs11:token=a?pin-source=%7C/bin/pin", "file:PATH"),
            ("pkcs11:token=a;token=b", "twice"),
            ("pkcs11:token=%zz", "percent"),
            ("pkcs11:token=%f", "percent"),
            ("pkcs11:token=%ff", "UTF-8"),
            ("pkcs11:token", "'='"),
            ("pkcs11:", "names no token"),
            ("PKCS11:token=a", "pkcs11:"),
        ] {
            let why = TokenUri::parse(uri).unwrap_err();
            assert!(why.contains(named), "{uri}: {why}");
            assert!(!why.contains("4711"), "{why}");
        }
        for (uri, named) in [
            ("pkcs11:object=a?module-path=/m&pin-value=4711-secret", "never stands in an argument"),
            ("pkcs11:4711=a?pin-value=4711-secret", "never stands in an argument"),
            ("pkcs11:object=a", "module-path=/usr/lib"),
            ("pkcs11:object=a;type=cert?module-path=/m", "type must be private"),
            ("pkcs11:object=%ff?module-path=/m", "UTF-8"),
            ("pkcs11:object=a;library-version=2?module-path=/m", "library-version is not compared"),
        ] {
            let why = KeyUri::parse(uri).unwrap_err();
            assert!(why.contains(named) && !why.contains("4711"), "{uri}: {why}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        let uri = TokenUri {
            label: Some("Müller & Söhne; 50%".to_owned()),
            module: Some("/usr/lib/a b/p;11?.so".into()),
            ..TokenUri::default()
        };
        let shown = uri.to_string();
        assert!(shown.is_ascii() && !shown.contains(' '), "{shown}");
        assert_eq!(TokenUri::parse(&shown), Ok(uri.clone()));
        for uri in [
            TokenUri { slot: Some(7), ..uri.clone() },
            TokenUri { serial: Some("4d".to_owned()), pin_file: Some("/etc/p n".into()), ..uri.clone() },
            TokenUri { module: None, ..uri },
        ] {
            assert_eq!(TokenUri::parse(&uri.to_string()), Ok(uri));
        }
    }
}

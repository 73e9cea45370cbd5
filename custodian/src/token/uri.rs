//! PKCS#11 URIs of tokens: how the worker finds the token that one names, and how we name one.

use std::path::Path;

use custodian_proto::pkcs11::TokenUri;

use super::TokenSelect;

/// How the worker finds the token. The label is compared once it has been found.
pub(crate) fn select(uri: &TokenUri) -> Option<TokenSelect> {
    match (&uri.serial, uri.slot, &uri.label) {
        (Some(serial), _, _) => Some(TokenSelect::Serial(serial.clone())),
        (None, Some(slot), _) => Some(TokenSelect::Slot(slot)),
        (None, None, Some(label)) => Some(TokenSelect::Label(label.clone())),
        (None, None, None) => None,
    }
}

/// The URI of a token, with its label if that is known.
pub(super) fn show(token: &TokenSelect, label: Option<&str>, module: &Path) -> String {
    let known =
        TokenUri { label: label.map(str::to_owned), module: Some(module.to_owned()), ..TokenUri::default() };
    let uri = match token.clone() {
        TokenSelect::Label(label) => TokenUri { label: Some(label), ..known },
        TokenSelect::Serial(serial) => TokenUri { serial: Some(serial), ..known },
        TokenSelect::Slot(slot) => TokenUri { slot: Some(slot), ..known },
    };
    uri.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_finds_the_same_token() {
        let module = Path::new("/usr/lib/a b/p;11?.so");
        for token in [
            TokenSelect::Label("Müller & Söhne; 50%".to_owned()),
            TokenSelect::Serial("4d".to_owned()),
            TokenSelect::Slot(7),
        ] {
            let label = (!matches!(token, TokenSelect::Label(_))).then_some("a");
            let uri = TokenUri::parse(&show(&token, label, module)).unwrap();
            assert_eq!(select(&uri), Some(token));
            assert!(uri.label.is_some());
            assert_eq!(uri.module.as_deref(), Some(module));
        }
    }
}

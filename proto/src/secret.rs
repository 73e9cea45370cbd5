//! A text that must not be seen: a password, a PIN, a session token, a one-time code.

use zeroize::Zeroizing;

/// A secret text. Has no `Debug` and no `Display` (law 9), and is overwritten when dropped.
///
/// ```compile_fail
/// println!("{:?}", custodian_proto::secret::Secret::new("pin".to_string()));
/// ```
/// ```compile_fail
/// println!("{}", custodian_proto::secret::Secret::new("pin".to_string()));
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

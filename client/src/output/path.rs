//! Names from an envelope that are safe to make beneath a folder.

use std::{fmt, path::Path};

/// Longest path, in bytes: what Linux takes in one call.
const MAX_LEN: usize = 4_095;
/// Most parts of a path. Removing a tree takes a file descriptor for each level, and 1,024 are common.
const MAX_PARTS: usize = 256;
/// Longest part of a path between two slashes, in bytes.
const MAX_PART_LEN: usize = 255;

/// Names that mean a device on Windows, whatever the folder.
const DEVICES: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9",
    "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// A relative path of plain parts, separated by `/`: it cannot lead out of the folder it is joined to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SafePath(String);

impl SafePath {
    /// Takes a path that is safe, without a slash at its end.
    ///
    /// # Errors
    /// What makes it unsafe.
    pub fn parse(text: &str) -> Result<Self, Unsafe> {
        if text.is_empty() {
            return Err(Unsafe::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(Unsafe::TooLong);
        }
        if text.starts_with('/') {
            return Err(Unsafe::Absolute);
        }
        if matches!(text.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic()) {
            return Err(Unsafe::DriveLetter);
        }
        if text.split('/').count() > MAX_PARTS {
            return Err(Unsafe::TooDeep);
        }
        text.split('/').try_for_each(check_part)?;
        if super::staging::is_staging_name(text.split('/').next().unwrap_or_default()) {
            return Err(Unsafe::Reserved);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder it is in; `None` if it has no slash.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// All folders it is in, the nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.rmatch_indices('/').map(|(end, _)| &self.0[..end])
    }

    /// How many folders it is in.
    pub fn depth(&self) -> usize {
        self.0.matches('/').count()
    }
}

impl AsRef<Path> for SafePath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_part(part: &str) -> Result<(), Unsafe> {
    match part {
        "" => return Err(Unsafe::EmptyPart),
        "." | ".." => return Err(Unsafe::Dots),
        _ => {}
    }
    if part.len() > MAX_PART_LEN {
        return Err(Unsafe::TooLong);
    }
    if part.contains('\\') {
        return Err(Unsafe::Backslash);
    }
    // Also keeps names from playing tricks on a terminal.
    if part.chars().any(char::is_control) {
        return Err(Unsafe::Control);
    }
    if DEVICES.iter().any(|device| part.eq_ignore_ascii_case(device)) {
        return Err(Unsafe::Reserved);
    }
    Ok(())
}

/// Where a link may point: to a place inside the folder that holds the envelope's files.
///
/// Allowed are leading `..` that stay inside, then plain parts. A `..` after a plain part is refused: that part may be
/// a link itself, and then `..` leads somewhere else than it seems.
///
/// # Errors
/// What makes it unsafe.
pub fn check_link(link: &SafePath, target: &str) -> Result<(), Unsafe> {
    if target.is_empty() {
        return Err(Unsafe::Empty);
    }
    if target.len() > MAX_LEN {
        return Err(Unsafe::TooLong);
    }
    if target.starts_with('/') {
        return Err(Unsafe::LeadsOut);
    }
    let mut climbed = 0;
    let mut plain_seen = false;
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            climbed += 1;
            if plain_seen || climbed > link.depth() {
                return Err(Unsafe::LeadsOut);
            }
        } else {
            plain_seen = true;
            if part.contains('\\') {
                return Err(Unsafe::Backslash);
            }
            if part.chars().any(char::is_control) {
                return Err(Unsafe::Control);
            }
        }
    }
    Ok(())
}

/// What makes a name unsafe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unsafe {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// `a//b`
    #[error("it has an empty part")]
    EmptyPart,
    /// Longer than the system takes.
    #[error("it is too long")]
    TooLong,
    /// More folders in each other than a program can have open.
    #[error("it has more than 256 parts")]
    TooDeep,
    /// `/etc`
    #[error("it is an absolute path")]
    Absolute,
    /// `C:`
    #[error("it starts with a drive letter")]
    DriveLetter,
    /// `.` or `..`
    #[error("it contains “.” or “..”")]
    Dots,
    /// A separator on other systems.
    #[error("it contains a backslash")]
    Backslash,
    /// NUL, newline, escape sequences …
    #[error("it contains a control character")]
    Control,
    /// A device on Windows, or a name this program uses itself.
    #[error("it is a reserved name")]
    Reserved,
    /// A link whose target is somewhere else.
    #[error("it points out of the folder")]
    LeadsOut,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_names_are_refused_with_the_reason() {
        let cases = [
            ("", Unsafe::Empty),
            ("/etc/passwd", Unsafe::Absolute),
            ("C:evil", Unsafe::DriveLetter),
            ("c:/evil", Unsafe::DriveLetter),
            ("a/../b", Unsafe::Dots),
            ("..", Unsafe::Dots),
            ("./a", Unsafe::Dots),
            ("a//b", Unsafe::EmptyPart),
            ("a/", Unsafe::EmptyPart),
            ("..\\evil", Unsafe::Backslash),
            ("a\0b", Unsafe::Control),
            ("a\nb", Unsafe::Control),
            ("x/NUL", Unsafe::Reserved),
            (".envelope-12-0123456789abcdef", Unsafe::Reserved),
        ];
        for (name, reason) in cases {
            assert_eq!(SafePath::parse(name), Err(reason), "{name:?}");
        }
        assert_eq!(SafePath::parse(&"a".repeat(256)), Err(Unsafe::TooLong));
        assert_eq!(SafePath::parse(&"a/".repeat(2_100)), Err(Unsafe::TooLong));
        assert_eq!(SafePath::parse(&vec!["a"; 257].join("/")), Err(Unsafe::TooDeep));
        assert!(SafePath::parse(&vec!["a"; 256].join("/")).is_ok());
    }

    #[test]
    fn ordinary_names_are_kept() {
        for name in
            ["a", "ü/ö", "Foo::Bar.3pm", "a b", "…", "..a", "aux.c", "sub/.envelope-1-0123456789abcdef"]
        {
            assert_eq!(SafePath::parse(name).map(|path| path.to_string()).as_deref(), Ok(name));
        }
    }

    #[test]
    fn links_stay_inside() {
        let link = SafePath::parse("a/b/link").expect("safe");
        for inside in ["x", "../x", "../../x/y", "./x", "x/"] {
            assert_eq!(check_link(&link, inside), Ok(()), "{inside}");
        }
        for outside in ["/x", "../../../x", "x/../y", "../x/.."] {
            assert_eq!(check_link(&link, outside), Err(Unsafe::LeadsOut), "{outside}");
        }
    }
}

//! Settings: where the custodian is and who we are. Flag > environment > user's file > machine's file.

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use crate::{
    error::{Error, Kind, Result},
    password::PasswordSource,
    signed::AcceptTable,
};

/// The machine's settings file.
const MACHINE_FILE: &str = "/etc/custodian/client.toml";
/// Largest settings file, in bytes.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// One layer of settings, or all of them merged. Everything is optional until somebody asks for it.
#[derive(Clone, Default, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `host:port` of the custodian.
    pub addr: Option<String>,
    /// The certificates (PEM) that may vouch for the custodian. No others do.
    pub ca: Option<PathBuf>,
    /// This device's certificate, PEM.
    pub cert: Option<PathBuf>,
    /// This device's private key, PEM.
    pub key: Option<PathBuf>,
    /// Who signs in.
    pub user: Option<String>,
    /// A file with the password; `-` for standard input.
    pub password_file: Option<PathBuf>,
    /// Whose signatures count. The machine's table comes before the user's, and no flag changes it: so an administrator can
    /// settle it.
    pub accept: Option<AcceptTable>,
    /// A file with a code of the second factor; `-` for standard input. Not in settings files: a code is good once.
    #[serde(skip)]
    pub totp_file: Option<PathBuf>,
    /// Where sessions are kept between two commands. Not in settings files.
    #[serde(skip)]
    pub session_dir: Option<PathBuf>,
}

impl Settings {
    /// What a command needs that does not talk to a custodian yet: these flags, then environment and files.
    ///
    /// # Errors
    /// A settings file that cannot be read, or that says something unknown.
    pub fn load(flags: Self) -> Result<Self> {
        let from = |name: &str| env::var_os(name);
        let user_file = config_dir(&from).map(|dir| dir.join("client.toml"));
        let files: Vec<PathBuf> = user_file.into_iter().chain([PathBuf::from(MACHINE_FILE)]).collect();
        Self::resolve(flags, &from, &files)
    }

    /// Merges the layers; `files` in order of precedence, the last one the machine's. Missing files are fine.
    ///
    /// # Errors
    /// A settings file that cannot be read, or that says something unknown.
    pub fn resolve(
        flags: Self,
        variable: &dyn Fn(&str) -> Option<OsString>,
        files: &[PathBuf],
    ) -> Result<Self> {
        let mut merged = flags.over(Self::from_environment(variable));
        for file in files {
            if let Some(mut layer) = Self::from_file(file)? {
                if let (Some(accept), true) = (&mut layer.accept, files.last() == Some(file)) {
                    accept.by_administrator = true;
                }
                merged = merged.over(layer);
            }
        }
        Ok(merged)
    }

    /// The custodian's address.
    ///
    /// # Errors
    /// It is not set, or is not `host:port`.
    pub fn address(&self) -> Result<Address> {
        let text = self.addr.as_deref().ok_or_else(|| missing(&ADDR))?;
        text.parse().map_err(|why: NotAnAddress| {
            Error::new(Kind::Usage, format!("cannot use the address {text:?}"), why)
                .hint("give --addr or CUSTODIAN_ADDR as host:port, such as custodian.example:7443")
        })
    }

    /// The file of certificates that may vouch for the custodian.
    ///
    /// # Errors
    /// It is not set.
    pub fn ca(&self) -> Result<&Path> {
        self.ca.as_deref().ok_or_else(|| missing(&CA))
    }

    /// This device's certificate.
    ///
    /// # Errors
    /// It is not set.
    pub fn cert(&self) -> Result<&Path> {
        self.cert.as_deref().ok_or_else(|| missing(&CERT))
    }

    /// This device's private key.
    ///
    /// # Errors
    /// It is not set.
    pub fn key(&self) -> Result<&Path> {
        self.key.as_deref().ok_or_else(|| missing(&KEY))
    }

    /// Who signs in: `anna`, also where `users/anna` was given.
    ///
    /// # Errors
    /// It is not set.
    pub fn user(&self) -> Result<&str> {
        let user = self.user.as_deref().ok_or_else(|| missing(&USER))?;
        Ok(user.strip_prefix("users/").unwrap_or(user))
    }

    /// Where codes of the second factor come from: the file, else the terminal.
    pub fn second_factor(&self) -> PasswordSource {
        PasswordSource::of(self.totp_file.as_deref())
    }

    /// Where the password comes from: the file, else the terminal.
    pub fn password(&self) -> PasswordSource {
        PasswordSource::of(self.password_file.as_deref())
    }

    /// Where sessions are kept between two commands.
    ///
    /// # Errors
    /// There is no home folder.
    pub fn session_dir(&self) -> Result<&Path> {
        self.session_dir.as_deref().ok_or_else(|| {
            Error::new(Kind::Usage, "cannot keep a session", "there is no folder for it")
                .hint("set XDG_RUNTIME_DIR or HOME")
        })
    }

    fn from_environment(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).map(|value| value.to_string_lossy().into_owned());
        let path = |name: &str| set(name).map(PathBuf::from);
        Self {
            addr: text(ADDR.variable),
            ca: path(CA.variable),
            cert: path(CERT.variable),
            key: path(KEY.variable),
            user: text(USER.variable),
            password_file: path("CUSTODIAN_PASSWORD_FILE"),
            accept: None,
            totp_file: path("CUSTODIAN_TOTP_FILE"),
            session_dir: session_dir(&path),
        }
    }

    fn from_file(file: &Path) -> Result<Option<Self>> {
        let cannot =
            |why: &dyn fmt::Display| Error::new(Kind::Local, format!("cannot read {}", file.display()), why);
        match fs::metadata(file) {
            Ok(found) if found.len() > MAX_FILE_LEN => return Err(cannot(&"it is too long for settings")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(&error)),
        }
        let text = fs::read_to_string(file).map_err(|error| cannot(&error))?;
        let layer: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            cannot(&format!("line {line}: {}", error.message().replace('\n', " ")))
                .hint("it may have: addr, ca, cert, key, user, password_file, and a table [accept]")
        })?;
        Ok(Some(layer.relative_to(file.parent().unwrap_or(Path::new(".")))))
    }

    /// Paths in a settings file are relative to its folder, wherever the command runs.
    fn relative_to(self, folder: &Path) -> Self {
        let place = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        Self {
            ca: place(self.ca),
            cert: place(self.cert),
            key: place(self.key),
            password_file: place(self.password_file),
            accept: self.accept.map(|accept| accept.relative_to(folder)),
            ..self
        }
    }

    fn over(self, weaker: Self) -> Self {
        Self {
            addr: self.addr.or(weaker.addr),
            ca: self.ca.or(weaker.ca),
            cert: self.cert.or(weaker.cert),
            key: self.key.or(weaker.key),
            user: self.user.or(weaker.user),
            password_file: self.password_file.or(weaker.password_file),
            // The other way round: what is settled for the machine holds.
            accept: weaker.accept.or(self.accept),
            totp_file: self.totp_file.or(weaker.totp_file),
            session_dir: self.session_dir.or(weaker.session_dir),
        }
    }
}

/// The folder of the user's settings: `$XDG_CONFIG_HOME/custodian`, else `~/.config/custodian`.
pub fn user_config_dir() -> Option<PathBuf> {
    config_dir(&|name| env::var_os(name))
}

fn config_dir(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(base.join("custodian"))
}

/// `$CUSTODIAN_SESSION_DIR`, else `$XDG_RUNTIME_DIR/custodian`, else `~/.cache/custodian`.
fn session_dir(path: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name: &str| path(name).filter(|path| path.is_absolute());
    path("CUSTODIAN_SESSION_DIR")
        .or_else(|| Some(absolute("XDG_RUNTIME_DIR")?.join("custodian")))
        .or_else(|| Some(absolute("HOME")?.join(".cache/custodian")))
}

/// A setting that may be asked for and missing.
struct Setting {
    what: &'static str,
    flag: &'static str,
    variable: &'static str,
    field: &'static str,
}

const ADDR: Setting =
    Setting { what: "the custodian's address", flag: "--addr", variable: "CUSTODIAN_ADDR", field: "addr" };
const CA: Setting = Setting {
    what: "the certificate that vouches for the custodian",
    flag: "--ca",
    variable: "CUSTODIAN_CA",
    field: "ca",
};
const CERT: Setting =
    Setting { what: "this device's certificate", flag: "--cert", variable: "CUSTODIAN_CERT", field: "cert" };
const KEY: Setting =
    Setting { what: "this device's key", flag: "--key", variable: "CUSTODIAN_KEY", field: "key" };
const USER: Setting =
    Setting { what: "who signs in", flag: "--user", variable: "CUSTODIAN_USER", field: "user" };

fn missing(setting: &Setting) -> Error {
    let Setting { what, flag, variable, field } = setting;
    let file = user_config_dir()
        .map_or_else(|| MACHINE_FILE.to_owned(), |dir| dir.join("client.toml").display().to_string());
    Error::new(Kind::Usage, "cannot talk to a custodian", format!("{what} is not set"))
        .hint(format!("give {flag}, or set {variable}, or write {field} = \"…\" in {file}"))
}

/// Where a custodian listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// A DNS name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The text is no `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not host:port")]
pub struct NotAnAddress;

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> std::result::Result<Self, NotAnAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(NotAnAddress)?;
        let port = port.parse().map_err(|_| NotAnAddress)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
        let host_is_sound = match bracketed {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        if host_is_sound { Ok(Self { host: host.to_owned(), port }) } else { Err(NotAnAddress) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed::Choice;

    fn layer(addr: &str) -> Settings {
        Settings { addr: Some(addr.into()), ..Settings::default() }
    }

    fn nothing(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_users_file_beats_the_machines() {
        let dir = tempfile::tempdir().unwrap();
        let (user, machine) = (dir.path().join("user.toml"), dir.path().join("machine.toml"));
        fs::write(&user, "addr = 'user:1'\nuser = 'anna'\n").unwrap();
        fs::write(&machine, "addr = 'machine:1'\nuser = 'bob'\nca = '/machine/ca'\n").unwrap();
        let files = [user, machine];
        let environment = |name: &str| (name == "CUSTODIAN_ADDR").then(|| OsString::from("env:1"));

        let all = Settings::resolve(layer("flag:1"), &environment, &files).unwrap();
        assert_eq!(all.addr.as_deref(), Some("flag:1"));
        assert_eq!(all.user.as_deref(), Some("anna"));
        assert_eq!(all.ca.as_deref(), Some(Path::new("/machine/ca")));
        let no_flag = Settings::resolve(Settings::default(), &environment, &files).unwrap();
        assert_eq!(no_flag.addr.as_deref(), Some("env:1"));
        let files_only = Settings::resolve(Settings::default(), &nothing, &files).unwrap();
        assert_eq!(files_only.addr.as_deref(), Some("user:1"));
        let machine_only = Settings::resolve(Settings::default(), &nothing, &files[1..]).unwrap();
        assert_eq!(machine_only.addr.as_deref(), Some("machine:1"));
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let empty = |_: &str| Some(OsString::new());
        let settings = Settings::resolve(Settings::default(), &empty, &[]).unwrap();
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn sessions_are_kept_where_the_machine_forgets_them_if_it_can() {
        let dir = |set: &[(&str, &str)]| {
            let variable =
                |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
            Settings::resolve(Settings::default(), &variable, &[]).unwrap().session_dir
        };
        let home = ("HOME", "/home/anna");
        let runtime = ("XDG_RUNTIME_DIR", "/run/user/1000");
        assert_eq!(dir(&[]), None);
        assert_eq!(dir(&[home]), Some("/home/anna/.cache/custodian".into()));
        assert_eq!(dir(&[home, runtime]), Some("/run/user/1000/custodian".into()));
        assert_eq!(dir(&[home, runtime, ("CUSTODIAN_SESSION_DIR", "/s")]), Some("/s".into()));
    }

    #[test]
    fn a_misspelt_setting_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.toml");
        fs::write(&file, "addr = 'a:1'\ncertificate = 'x'\n").unwrap();
        let error = Settings::resolve(Settings::default(), &nothing, &[file]).unwrap_err();
        assert_eq!(error.kind, Kind::Local);
        assert!(error.why.contains("line 2") && error.why.contains("certificate"), "{}", error.why);
    }

    #[test]
    fn the_machine_settles_who_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let (user, machine) = (dir.path().join("user.toml"), dir.path().join("machine.toml"));
        fs::write(&user, "[accept]\nunsigned = 'allow'\n").unwrap();
        let files = [user, machine.clone()];
        let accept = || Settings::resolve(layer("a:1"), &nothing, &files).unwrap().accept.unwrap();
        assert_eq!((accept().unsigned, accept().by_administrator), (Choice::Allow, false));
        fs::write(&machine, "[accept]\ncertificates = ['anna.crt']\n").unwrap();
        assert_eq!((accept().unsigned, accept().by_administrator), (Choice::Refuse, true));
        assert_eq!(accept().certificates, [dir.path().join("anna.crt")]);
        fs::write(&machine, "[accept]\nby_administrator = false\n").unwrap();
        assert!(Settings::resolve(layer("a:1"), &nothing, &files).is_err());
    }

    #[test]
    fn paths_in_a_file_are_relative_to_that_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.toml");
        fs::write(&file, "key = 'device.key'\n").unwrap();
        let settings = Settings::resolve(Settings::default(), &nothing, &[file]).unwrap();
        assert_eq!(settings.key, Some(dir.path().join("device.key")));
    }

    #[test]
    fn a_missing_setting_names_flag_variable_and_file() {
        let empty = Settings::default();
        let errors = [
            (empty.address().unwrap_err(), "--addr", "CUSTODIAN_ADDR"),
            (empty.ca().unwrap_err(), "--ca", "CUSTODIAN_CA"),
            (empty.cert().unwrap_err(), "--cert", "CUSTODIAN_CERT"),
            (empty.key().unwrap_err(), "--key", "CUSTODIAN_KEY"),
            (empty.user().unwrap_err(), "--user", "CUSTODIAN_USER"),
        ];
        for (error, flag, variable) in errors {
            assert_eq!(error.kind, Kind::Usage);
            for part in [flag, variable, "client.toml"] {
                assert!(error.hint.contains(part), "{} lacks {part}", error.hint);
            }
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for text in ["custodian.example:7443", "127.0.0.1:1", "[::1]:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:9".parse::<Address>().unwrap().host(), "::1");
        for text in ["", "host", "host:", ":1", "host:70000", "ho st:1", "http://host:1", "::1:2", "[host]:1"]
        {
            assert_eq!(text.parse::<Address>(), Err(NotAnAddress), "{text}");
        }
    }
}

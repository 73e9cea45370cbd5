//! `custodian dev`: from nothing to a running custodian to play with, in one command.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use jiff::SignedDuration;

use super::{
    files::{self, Mode},
    layout::{Person, Plan, key_path},
    log_key, serve,
};
use crate::{
    authority::Role,
    config::{RawNetwork, RawToken},
    token::{InitToken, init_token},
    trouble::Trouble,
};

/// Where distributions put SoftHSM.
const SOFTHSM: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

const TOKEN_LABEL: &str = "custodian-dev";

/// What can be given to `custodian dev`.
#[derive(clap::Args)]
pub struct DevArgs {
    /// Where everything is kept; made at the first start
    #[arg(long, default_value = "custodian-dev")]
    pub dir: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// A PKCS#11 module to use instead of a SoftHSM token made for this
    #[arg(long, requires = "token_label", requires = "pin_file")]
    pub module: Option<PathBuf>,
    /// That module's token, by its label
    #[arg(long, requires = "module")]
    pub token_label: Option<String>,
    /// A file with that token's PIN
    #[arg(long, requires = "module")]
    pub pin_file: Option<PathBuf>,
}

/// The people of a custodian to play with.
const PEOPLE: [(&str, Role); 3] =
    [("operator", Role::Operator), ("admin", Role::Admin), ("auditor", Role::Auditor)];

/// Sets up `args.dir` if it is not set up yet, and serves. `ready` is told the address and the folder.
pub async fn dev(
    args: DevArgs,
    progress: &mut dyn FnMut(&str),
    ready: impl FnOnce(SocketAddr, &Path),
) -> Result<(), Trouble> {
    files::folder(&args.dir)?;
    let dir = args
        .dir
        .canonicalize()
        .map_err(|error| Trouble::new(format!("cannot use the folder {}", args.dir.display()), error))?;
    let config = dir.join("custodian.toml");
    if !config.exists() {
        set_up(&args, &dir, &config, progress).await?;
    }
    progress("starting");
    let mut written = Ok(());
    let serving = serve::serve(&config, Some(args.listen), |address| {
        written = write_environments(&dir, address);
        if written.is_ok() {
            ready(address, &dir);
        }
    });
    serving.await?;
    written
}

async fn set_up(
    args: &DevArgs,
    dir: &Path,
    config: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Trouble> {
    let token = match (&args.module, &args.pin_file) {
        (Some(module), Some(pin_file)) => {
            let mut token = RawToken::new(module.clone(), args.token_label.clone(), None);
            let absolute = pin_file.canonicalize();
            token.pin_file = Some(
                absolute
                    .map_err(|error| Trouble::new(format!("cannot read {}", pin_file.display()), error))?,
            );
            // What it needs is not known here, and this is for trying things out.
            token.cage.write = vec!["/".into()];
            token.cage.network = RawNetwork::All(true);
            token
        }
        _ => make_softhsm_token(dir, progress).await?,
    };
    let mut people = Vec::new();
    for (name, role) in PEOPLE {
        let folder = dir.join(name);
        files::folder(&folder)?;
        let password = random_text()?;
        files::create(&folder.join("password"), password.expose().as_bytes(), Mode::Secret)?;
        let bad = |error| Trouble::new(format!("cannot use the id {name}"), error);
        let device = format!("{name}-laptop").parse().map_err(bad)?;
        people.push(Person { user: name.parse().map_err(bad)?, roles: vec![role], password, device, folder });
    }
    let plan = Plan {
        config: config.to_owned(),
        listen: args.listen,
        names: names(args.listen),
        organisation: "Custodian dev".into(),
        token,
        // The disk of somebody's laptop may pause for longer than a server's.
        ledger_deadline: SignedDuration::from_secs(8),
        key_label: "sample".into(),
        people,
    };
    plan.lay_out(progress).await
}

/// A SoftHSM token of its own, in `dir`.
async fn make_softhsm_token(dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<RawToken, Trouble> {
    let module = SOFTHSM.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        Trouble::new("cannot make a token", "SoftHSM is not installed")
            .hint("apt-get install softhsm2, or name a module: --module, --token-label, --pin-file")
    })?;
    progress("making a SoftHSM token");
    let tokens = dir.join("tokens");
    files::folder(&tokens)?;
    let conf = dir.join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    files::create(&conf, text.as_bytes(), Mode::Public)?;
    let (pin_file, so_pin_file) = (dir.join("token.pin"), dir.join("token.so-pin"));
    files::create(&pin_file, random_text()?.expose().as_bytes(), Mode::Secret)?;
    files::create(&so_pin_file, random_text()?.expose().as_bytes(), Mode::Secret)?;
    let mut token = RawToken::new(module.clone(), Some(TOKEN_LABEL.into()), None);
    token.environment.insert("SOFTHSM2_CONF".into(), conf.display().to_string());
    let init = InitToken { module, label: TOKEN_LABEL.into(), so_pin_file, pin_file: pin_file.clone() };
    init_token(Path::new("/proc/self/exe"), &init, &token.environment)
        .await
        .map_err(|error| Trouble::new("cannot make a SoftHSM token", error))?;
    token.pin_file = Some("token.pin".into());
    token.cage.write = vec!["tokens".into()];
    Ok(token)
}

/// `operator.env`, `admin.env`, `auditor.env`: written at every start, since the port may be another.
fn write_environments(dir: &Path, address: SocketAddr) -> Result<(), Trouble> {
    for (name, _) in PEOPLE {
        let folder = dir.join(name);
        let text = [
            ("CUSTODIAN_ADDR", address.to_string()),
            ("CUSTODIAN_CA", dir.join("ca.crt").display().to_string()),
            ("CUSTODIAN_CERT", folder.join("device.crt").display().to_string()),
            ("CUSTODIAN_KEY", folder.join("device.key").display().to_string()),
            ("CUSTODIAN_USER", name.to_owned()),
            ("CUSTODIAN_PASSWORD_FILE", folder.join("password").display().to_string()),
            ("CUSTODIAN_SESSION_DIR", folder.join("session").display().to_string()),
            ("CUSTODIAN_LOG_KEY", log_key::path(dir).display().to_string()),
            ("CUSTODIAN_LOG_STATE", folder.join("log.checkpoint").display().to_string()),
        ]
        .map(|(variable, value)| format!("export {variable}='{}'\n", value.replace('\'', "'\\''")))
        .concat();
        let path = dir.join(format!("{name}.env"));
        // Aside and renamed: somebody may be reading the old one.
        let aside = dir.join(format!(".{name}.env.new"));
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|error| Trouble::new(format!("cannot write {}", path.display()), error))?;
    }
    Ok(())
}

/// What to type next, for the person who started it.
pub fn guide(address: SocketAddr, dir: &Path) -> String {
    let certificate = key_path(dir, "sample");
    let dir = dir.display();
    // The programs are where this one is, and maybe not on the PATH.
    let programs = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let programs = programs.map(|folder| folder.display().to_string()).unwrap_or_default();
    format!(
        "\n\
         A custodian is running on {address}. Its private keys are in the token; Ctrl-C stops it.\n\
         In another terminal:\n\
         \n\
         \x20   export PATH={programs}:$PATH\n\
         \x20 seal (needs no account):\n\
         \x20   envelope seal --to {certificate} -o docs.mtd /usr/share/doc/bash\n\
         \x20   envelope inspect docs.mtd\n\
         \x20 extract, as the operator:\n\
         \x20   . {dir}/operator.env && envelope extract docs.mtd -C opened --reason 'trying it out'\n\
         \x20 revoke that workstation, as the administrator:\n\
         \x20   . {dir}/admin.env && custodianctl device revoke operator-laptop --reason 'lost'\n\
         \x20 read the log, and check that nobody changed it, as the auditor:\n\
         \x20   . {dir}/auditor.env && custodianctl audit ls && custodianctl audit verify\n",
        certificate = certificate.display(),
    )
}

fn names(listen: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()];
    let ip = listen.ip().to_string();
    if !listen.ip().is_unspecified() && !names.contains(&ip) {
        names.push(ip);
    }
    names
}

fn random_text() -> Result<custodian_proto::secret::Secret, Trouble> {
    crate::api::random_token().map_err(|denial| Trouble::new("cannot make a password", denial))
}

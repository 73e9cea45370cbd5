//! `custodian init`: a set-up for production. Asked for or given.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
};

use custodian_proto::secret::Secret;

use super::layout::{Person, Plan};
use crate::{
    authority::Role,
    config::{RawNetwork, RawToken, two_seconds},
    trouble::Trouble,
};

/// What can be given; what is not is asked for on a terminal.
#[derive(clap::Args)]
pub struct InitArgs {
    /// The configuration file to make; everything else goes beside it
    #[arg(long)]
    pub config: PathBuf,
    /// The PKCS#11 module, by its absolute path
    #[arg(long)]
    pub module: Option<PathBuf>,
    /// The token, by its label
    #[arg(long, conflicts_with = "token_serial")]
    pub token_label: Option<String>,
    /// The token, by its serial number
    #[arg(long)]
    pub token_serial: Option<String>,
    /// A file with the token's PIN, readable only by its owner
    #[arg(long, conflicts_with = "pin_credential")]
    pub pin_file: Option<PathBuf>,
    /// The name of a systemd credential with the token's PIN
    #[arg(long)]
    pub pin_credential: Option<String>,
    /// A file or folder in which the module may write, such as where it keeps its keys; may be repeated
    #[arg(long = "token-write")]
    pub token_write: Vec<PathBuf>,
    /// A TCP port of the HSM, on any host, that the module may connect to; may be repeated
    #[arg(long = "token-port")]
    pub token_ports: Vec<u16>,
    /// Run the token's worker as this user; takes root
    #[arg(long)]
    pub token_user: Option<String>,
    /// Where to listen, such as 0.0.0.0:7443
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// A name or address by which clients know the server; may be repeated
    #[arg(long = "name")]
    pub names: Vec<String>,
    /// Stands in the name of the device CA
    #[arg(long)]
    pub organisation: Option<String>,
    /// The first administrator's user id
    #[arg(long)]
    pub admin: Option<String>,
    /// A file with that administrator's password
    #[arg(long)]
    pub admin_password_file: Option<PathBuf>,
}

/// Lays out what the arguments and answers say. Returns what to do next.
pub async fn init(args: InitArgs, progress: &mut dyn FnMut(&str)) -> Result<String, Trouble> {
    let config = args.config.clone();
    let folder =
        config.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or(".".into(), PathBuf::from);
    let plan = plan(args, &folder)?;
    let admin = plan.people.first().map(|person| person.folder.clone()).unwrap_or_default();
    plan.lay_out(progress).await?;
    Ok(format!(
        "The custodian is set up.\n\
         \x20 check it:    custodian check --config {config}\n\
         \x20 start it:    custodian serve --config {config}\n\
         \x20 seal to it:  envelope seal --to {keys}/first.crt FILE\n\
         \x20 check its log: custodianctl audit verify --log-key {keys}/log.pub\n\
         Move {admin} to the administrator's workstation: its key must not stay here.",
        config = config.display(),
        keys = folder.join("keys").display(),
        admin = admin.display(),
    ))
}

fn plan(args: InitArgs, folder: &std::path::Path) -> Result<Plan, Trouble> {
    let module = given_or_asked(args.module, "--module", "PKCS#11 module (absolute path)")?;
    let label = match &args.token_serial {
        Some(_) => None,
        None => Some(given_or_asked(args.token_label, "--token-label", "Token label")?),
    };
    let mut token = RawToken::new(module, label, args.token_serial);
    for path in &args.token_write {
        let absolute = path.canonicalize();
        token
            .cage
            .write
            .push(absolute.map_err(|error| Trouble::new(format!("cannot use {}", path.display()), error))?);
    }
    token.cage.network = RawNetwork::Ports(args.token_ports);
    token.cage.user = args.token_user;
    match (args.pin_file, args.pin_credential) {
        (Some(file), _) => {
            let absolute = file.canonicalize();
            token.pin_file = Some(
                absolute.map_err(|error| Trouble::new(format!("cannot read {}", file.display()), error))?,
            );
        }
        (None, Some(name)) => token.pin_credential = Some(name),
        // The worker asks for it on the terminal, at every start.
        (None, None) => token.pin_prompt = true,
    }
    let listen: SocketAddr = given_or_asked(args.listen, "--listen", "Listen on (address:port)")?;
    let names = if args.names.is_empty() {
        let asked: String = given_or_asked(None, "--name", "Server name that clients will use")?;
        asked.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    } else {
        args.names
    };
    let organisation = given_or_asked(args.organisation, "--organisation", "Organisation")?;
    let admin: String = given_or_asked(args.admin, "--admin", "First administrator's user id")?;
    let password = match args.admin_password_file {
        Some(file) => password_from(&file)?,
        None => asked_password(&admin)?,
    };
    let user =
        admin.parse().map_err(|error| Trouble::new(format!("cannot use the user id {admin:?}"), error))?;
    let device = format!("{}-first", admin.replace(['.', '_'], "-"));
    let device = device
        .parse()
        .map_err(|error| Trouble::new(format!("cannot use the device id {device:?}"), error))?;
    Ok(Plan {
        config: args.config,
        listen,
        names,
        organisation,
        token,
        ledger_deadline: two_seconds(),
        key_label: "first".into(),
        people: vec![Person {
            user,
            roles: vec![Role::Admin],
            password,
            device,
            folder: folder.join("admin"),
        }],
    })
}

fn given_or_asked<T: std::str::FromStr<Err: std::fmt::Display>>(
    given: Option<T>,
    flag: &str,
    question: &str,
) -> Result<T, Trouble> {
    if let Some(given) = given {
        return Ok(given);
    }
    if !io::stdin().is_terminal() {
        return Err(Trouble::new("cannot set up a custodian", format!("{flag} is not given"))
            .hint("give it, or run this on a terminal to be asked"));
    }
    let mut answer = String::new();
    let ask = || {
        write!(io::stderr(), "{question}: ")?;
        io::stdin().read_line(&mut answer)
    };
    let mut ask = ask;
    ask().map_err(|error| Trouble::new("cannot read the answer", error))?;
    let answer = answer.trim();
    answer.parse().map_err(|error| Trouble::new(format!("cannot use {answer:?} for {flag}"), error))
}

fn password_from(file: &std::path::Path) -> Result<Secret, Trouble> {
    let text = fs::read_to_string(file)
        .map_err(|error| Trouble::new(format!("cannot read the password file {}", file.display()), error))?;
    let mut text = zeroize::Zeroizing::new(text);
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(Secret::new(std::mem::take(&mut *text)))
}

fn asked_password(user: &str) -> Result<Secret, Trouble> {
    let ask = |question: String| {
        rpassword::prompt_password(question).map(Secret::new).map_err(|error| {
            Trouble::new("cannot ask for the password", error).hint("give --admin-password-file")
        })
    };
    let first = ask(format!("Password for {user} (at least 12 characters): "))?;
    let again = ask("Once more: ".into())?;
    if first.expose() != again.expose() {
        return Err(Trouble::new("cannot set the password", "the two differ"));
    }
    Ok(first)
}

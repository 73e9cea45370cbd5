//! The command line: arguments → job → message with hint. Both tools.
//!
//! Data goes to standard output, everything else to standard error.

mod accept;
mod approval;
mod attest;
mod audit;
mod budget;
mod certificate;
mod connection;
mod csv;
mod ctl;
mod device;
mod enroll;
mod envelope;
mod extract;
mod identity;
mod inspect;
mod key;
mod log;
mod login;
mod message;
mod opened;
mod output;
mod policy;
mod progress;
mod renew;
mod seal;
mod search;
mod several;
mod sign;
mod signer;
mod status;
mod text;
mod timestamp;
mod token;
mod totp;
mod user;
mod verify;
mod view;
mod when;
mod witness;

pub use ctl::custodianctl;
pub use envelope::envelope;

/// What `envelope --help` says about settings.
const SETTINGS: &str = "\
Settings: flag > environment > ~/.config/custodian/client.toml
          > /etc/custodian/client.toml
  --addr HOST:PORT   CUSTODIAN_ADDR           where the custodian listens
  --ca FILE          CUSTODIAN_CA             PEM; who may vouch for it
  --cert FILE        CUSTODIAN_CERT           PEM; this device's certificate
  --key FILE         CUSTODIAN_KEY            PEM; this device's private key
  --user ID          CUSTODIAN_USER           who signs in
  --password-file F  CUSTODIAN_PASSWORD_FILE  else the terminal is asked
  --log-key FILE     CUSTODIAN_LOG_KEY        the log's public key (environment or flag)
  --accept-from ...  [accept] in the files    whose signatures count: docs/formats/signature.md";

/// What every `--help` ends with.
const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 local failure, 2 usage, 3 refused, 4 waits for approval,
  5 damaged envelope or sender not accepted (nothing released), damaged log,
  6 custodian unreachable, 130 interrupted";

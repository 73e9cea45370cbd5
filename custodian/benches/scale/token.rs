//! A token with the device CA's key: what revocation lists are signed by.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use custodian::{
    authority::RevokedCertificate,
    pki::{DeviceCa, Validity},
    token::{
        CageConfig, InitToken, PinSource, Supervisor, TokenConfig, TokenSelect, WorkerCommand, init_token,
    },
};
use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PublicKeyData as _};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PROGRAM: &str = env!("CARGO_BIN_EXE_custodian");
const PIN: &str = "123456";

/// A token, its worker, and a device's certificate.
pub(crate) struct Made {
    token: Arc<Supervisor>,
    ca: DeviceCa,
    /// DER.
    pub(crate) certificate: Vec<u8>,
}

impl Made {
    pub(crate) async fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("tokens")).unwrap();
        let conf = folder.join("softhsm2.conf");
        fs::write(&conf, format!("directories.tokendir = {}\n", folder.join("tokens").display())).unwrap();
        for name in ["so-pin", "pin"] {
            fs::write(folder.join(name), PIN).unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let environment = BTreeMap::from([("SOFTHSM2_CONF".to_owned(), conf.display().to_string())]);
        let request = InitToken {
            module: MODULE.into(),
            label: "bench".to_owned(),
            so_pin_file: folder.join("so-pin"),
            pin_file: folder.join("pin"),
        };
        init_token(Path::new(PROGRAM), &request, &environment).await.unwrap();
        let config = TokenConfig {
            module: MODULE.into(),
            select: TokenSelect::Label("bench".to_owned()),
            pin: PinSource::File(folder.join("pin")),
            environment,
            threads: Some(1),
            queue: 16,
            cage: CageConfig { write: vec![folder.join("tokens")], ..CageConfig::default() },
        };
        let command = WorkerCommand { program: PROGRAM.into(), ..WorkerCommand::default() };
        let token = Arc::new(Supervisor::start(command, config).await.unwrap());
        let ca = DeviceCa::create(token.clone(), "Bench", 10).await.unwrap();
        let spki = KeyPair::generate().unwrap().subject_public_key_info();
        let id = "laptop-0".parse().unwrap();
        let certificate = ca.issue_device(&id, &spki, Validity::days(365).unwrap()).await.unwrap();
        Self { token, ca, certificate }
    }

    /// A revocation list.
    pub(crate) async fn list(&self, revoked: Vec<RevokedCertificate>) -> Vec<u8> {
        let now = Timestamp::now();
        self.ca.revocation_list(1, revoked, now, now + SignedDuration::from_hours(24)).await.unwrap()
    }

    pub(crate) async fn end(self) {
        self.token.shutdown().await;
    }
}

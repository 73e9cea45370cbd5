//! People who sign, and the CA that vouches for them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use custodian_client::{error::Result, signed::LocalSigner};
use custodian_proto::identity::IdentityLevel;
use der::{Encode, asn1::ObjectIdentifier};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use x509_cert::ext::pkix::certpolicy::{CertificatePolicies, PolicyInformation};

use crate::common::run;

/// The kinds of keys, as `openssl genpkey` makes them.
pub(crate) const KINDS: [(&str, &[&str]); 4] = [
    ("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ("p256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ("p384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ("ed25519", &["-algorithm", "ED25519"]),
];

/// A CA with an intermediate one, and a folder for the files of all.
pub(crate) struct People {
    pub(crate) folder: TempDir,
    root: Authority,
    intermediate: Authority,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The signer of a file that has no password.
pub(crate) fn opened(file: &Path) -> Result<LocalSigner> {
    LocalSigner::open(file, None, &|| panic!("it has no password"))
}

/// Somebody's certificate, before it is issued.
pub(crate) struct Person<'a> {
    pub(crate) name: &'a str,
    /// One of [`KINDS`].
    pub(crate) kind: &'a str,
    pub(crate) serial: u64,
    /// First and last year.
    pub(crate) years: (i32, i32),
    pub(crate) level: Option<IdentityLevel>,
    pub(crate) purpose: Option<ExtendedKeyUsagePurpose>,
}

impl<'a> Person<'a> {
    pub(crate) fn named(name: &'a str) -> Self {
        Self { name, kind: "p256", serial: 7, years: (2020, 2099), level: None, purpose: None }
    }
}

impl People {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("folder");
        let authority = |name: &str, by: Option<&Authority>| {
            let key = KeyPair::generate().expect("key");
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = match by {
                None => params.self_signed(&key),
                Some(by) => params.signed_by(&key, &by.issuer),
            };
            let pem = certificate.expect("certificate").pem();
            fs::write(folder.path().join(format!("{name}.crt")), &pem).expect("written");
            Authority { pem, issuer: Issuer::new(params, key) }
        };
        let root = authority("root", None);
        let intermediate = authority("intermediate", Some(&root));
        Self { folder, root, intermediate }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `NAME.pem` (key, certificate and the CA between), `NAME.key` and `NAME.crt`. The address is `NAME@example.org`.
    pub(crate) fn issue(&self, person: &Person<'_>) -> PathBuf {
        let Person { name, kind, .. } = person;
        let [key_file, file] = [format!("{name}.key"), format!("{name}.pem")].map(|name| self.path(&name));
        let kind = KINDS.iter().find(|(named, _)| named == kind).expect("kind").1;
        run(Command::new("openssl").arg("genpkey").args(kind).arg("-out").arg(&key_file));
        let key_pem = fs::read_to_string(&key_file).expect("key");
        let key = KeyPair::from_pem(&key_pem).expect("key");

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, *name);
        // With it comes the key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(SerialNumber::from(person.serial));
        params.subject_alt_names =
            vec![SanType::Rfc822Name(format!("{name}@example.org").try_into().expect("address"))];
        params.not_before = date_time_ymd(person.years.0, 1, 1);
        params.not_after = date_time_ymd(person.years.1, 12, 31);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = person.purpose.iter().cloned().collect();
        params.custom_extensions = person.level.iter().map(|level| policy(*level)).collect();
        let certificate = params.signed_by(&key, &self.intermediate.issuer).expect("certificate").pem();
        fs::write(self.path(&format!("{name}.crt")), &certificate).expect("written");
        fs::write(&file, [&key_pem, &certificate, &self.intermediate.pem].map(String::as_str).concat())
            .expect("written");
        for path in [&key_file, &file] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode");
        }
        file
    }

    /// Writes `NAME.key` and `NAME.crt` of a time-stamping authority (RFC 3161 §2.3), with this number.
    pub(crate) fn issue_authority(&self, name: &str, serial: u64) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // id-kp-timeStamping alone.
        let purpose = [0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];
        let mut purpose = CustomExtension::from_oid_content(&[2, 5, 29, 37], purpose.to_vec());
        purpose.set_criticality(true);
        params.custom_extensions = vec![purpose];
        let certificate = params.signed_by(&key, &self.intermediate.issuer).expect("certificate").pem();
        fs::write(self.path(&format!("{name}.crt")), certificate).expect("written");
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    /// Writes a revocation list of the intermediate CA.
    pub(crate) fn revoke(&self, name: &str, serials: &[u64], until: i32) -> PathBuf {
        self.list_of(&self.intermediate, name, serials, until)
    }

    /// Writes a revocation list of the root, which certified none of them.
    pub(crate) fn revoke_by_root(&self, name: &str) -> PathBuf {
        self.list_of(&self.root, name, &[], 2099)
    }

    fn list_of(&self, authority: &Authority, name: &str, serials: &[u64], until: i32) -> PathBuf {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&authority.issuer).expect("list").pem().expect("PEM");
        let path = self.path(name);
        fs::write(&path, list).expect("written");
        path
    }

    /// The file with the root's certificate.
    pub(crate) fn root(&self) -> PathBuf {
        assert!(!self.root.pem.is_empty());
        self.path("root.crt")
    }
}

fn policy(level: IdentityLevel) -> CustomExtension {
    let policy_identifier = ObjectIdentifier::new(level.policy_oid()).expect("policy");
    let policies =
        CertificatePolicies(vec![PolicyInformation { policy_identifier, policy_qualifiers: None }]);
    CustomExtension::from_oid_content(&[2, 5, 29, 32], policies.to_der().expect("DER"))
}

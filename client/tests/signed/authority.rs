//! A time-stamping authority whose clock says what a test wants. openssl signs for it.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

use cms::{
    content_info::ContentInfo,
    revocation::{RevocationInfoChoice, RevocationInfoChoices},
    signed_data::SignedData,
};
use custodian_client::{error::Result, timestamp::Authority};
use custodian_proto::tsp::{Accuracy, TimeStampReq, TimeStampResp, TstInfo};
use der::{
    Any, Decode, Encode,
    asn1::{ObjectIdentifier, SetOfVec},
};

use crate::{common::run, people::People};

/// An authority that one of the people's CAs certified.
pub(crate) struct Clock<'a> {
    pub(crate) people: &'a People,
    /// Whose key and certificate it has.
    pub(crate) name: &'a str,
    pub(crate) time: SystemTime,
    /// Revocation lists that come with its timestamps, DER.
    pub(crate) lists: Vec<Vec<u8>>,
}

impl<'a> Clock<'a> {
    /// The authority of this name, now.
    pub(crate) fn now(people: &'a People, name: &'a str) -> Self {
        Self { people, name, time: SystemTime::now(), lists: Vec::new() }
    }
}

impl Authority for Clock<'_> {
    fn answer(&self, query: &[u8]) -> Result<Vec<u8>> {
        let (request, _) = TimeStampReq::read(query).expect("a request");
        let time = self.time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let policy = ObjectIdentifier::new_unwrap("1.2.3.4.1");
        let accuracy = Accuracy::of(Duration::from_secs(1));
        let info = TstInfo::answering(&request, policy, [7; 16], time, accuracy).expect("encodes");
        let path = |name: String| self.people.path(&name);
        let [given, out] = ["info", "token"].map(|part| path(format!("{}.{part}", self.name)));
        fs::write(&given, info.to_der().expect("DER")).expect("written");
        let mut command = Command::new("openssl");
        command.args(["cms", "-sign", "-cades", "-binary", "-nodetach", "-md", "sha256", "-outform", "DER"]);
        command.args(["-econtent_type", "1.2.840.113549.1.9.16.1.4", "-signer"]);
        command.arg(path(format!("{}.crt", self.name)));
        command.arg("-inkey").arg(path(format!("{}.key", self.name)));
        command.arg("-certfile").arg(path("intermediate.crt".to_owned()));
        run(command.arg("-in").arg(&given).arg("-out").arg(&out));
        let token = with_lists(&fs::read(out).expect("token"), &self.lists);
        Ok(TimeStampResp::granted(&token).expect("DER").to_der().expect("DER"))
    }
}

/// A message with these revocation lists in it. openssl has no flag for that.
pub(crate) fn with_lists(message: &[u8], lists: &[Vec<u8>]) -> Vec<u8> {
    if lists.is_empty() {
        return message.to_vec();
    }
    let message = ContentInfo::from_der(message).expect("CMS");
    let mut signed: SignedData = message.content.decode_as().expect("signed");
    let list = |der: &Vec<u8>| RevocationInfoChoice::Crl(Decode::from_der(der).expect("a list"));
    let lists: Vec<_> = lists.iter().map(list).collect();
    signed.crls = Some(RevocationInfoChoices(SetOfVec::try_from(lists).expect("a set")));
    let content = Any::encode_from(&signed).expect("encodes");
    ContentInfo { content, ..message }.to_der().expect("DER")
}

//! `CertificateService`.

use std::sync::Arc;

use custodian_proto::{
    email::Email,
    identity::IdentityLevel,
    limits::MAX_TEXT_LEN,
    refusal::Refusal,
    v1::{self, certificate_service_server::CertificateService},
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::timeout_at;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid},
    devices::list_days,
    resource::{page, page_size, page_start, required_reason, rows_for, timestamp, user_id},
};
use crate::{
    authority::{
        Caller, CertificateUse, Need, Person, PersonCertificate, Role, Serial, SessionId, SpkiHash, User,
        UserId, Why,
    },
    custody::{Denial, Fault},
    ledger::{CertificateQuery, Certified, Change, Changed, Intent},
    pki::{
        Validity, csr,
        peer::CertificateFacts,
        people::{PeopleCa, serial_and_key},
    },
};

/// Most certificates that one look-up finds.
const MOST_FOUND: u32 = 100;

const ADMIN: Need<'static> = Need::Role(Role::Admin);

#[tonic::async_trait]
impl CertificateService for Api {
    async fn set_identity(
        &self,
        request: Request<v1::SetIdentityRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        let accepted = self.accept(&request).await?;
        let person = self.parsed(&accepted, "SetIdentity", person(request.into_inner())).await?;
        let intent = Intent { target: person.user.resource_name(), ..accepted.call.intent("SetIdentity") };
        match self.change_certificates(&accepted, ADMIN, intent, Change::SetPerson(person)).await? {
            Changed::Person(person) => {
                self.people_list.forget();
                Ok(Response::new(person.into()))
            }
            _ => Err(accepted.status(nothing_left())),
        }
    }

    async fn get_identity(
        &self,
        request: Request<v1::GetIdentityRequest>,
    ) -> Result<Response<v1::Identity>, Status> {
        let accepted = self.accept(&request).await?;
        let user = user_id(&request.into_inner().user).map_err(|denial| accepted.status(denial))?;
        self.admit_owner(&accepted, Some(&user), "GetIdentity").await?;
        let found = self.custodian.ledger().person(&user).await;
        let found = found.map_err(|error| accepted.status(error.into()))?;
        let found = found.ok_or_else(|| accepted.status(Refusal::IdentityUnknown.into()))?;
        Ok(Response::new(found.into()))
    }

    async fn request_certificate(
        &self,
        request: Request<v1::RequestCertificateRequest>,
    ) -> Result<Response<v1::Certificate>, Status> {
        let accepted = self.accept(&request).await?;
        let parsed = wanted(request.into_inner());
        let wanted = self.parsed(&accepted, "RequestCertificate", parsed).await?;
        let user = accepted.call.caller.user.as_ref().map(|user| user.id.clone());
        let target = user.as_ref().map(UserId::resource_name).unwrap_or_default();
        let intent = Intent { target, ..accepted.call.intent("RequestCertificate") };
        let session = accepted.call.caller.session.as_ref().map(|session| session.id);
        let api = self.clone();
        let issue = Box::pin(async move {
            let (user, session) = user.zip(session).ok_or(Refusal::NotLoggedIn)?;
            Ok((api.certify_person(&user, session, wanted).await?, ()))
        });
        let issued = self.custodian.change(accepted.call.clone(), Need::Own, intent, issue).await;
        match issued.map_err(|denial| accepted.status(denial))?.0 {
            Changed::Certificate(issued) => Ok(Response::new(self.with_issuer(*issued))),
            _ => Err(accepted.status(nothing_left())),
        }
    }

    async fn list_certificates(
        &self,
        request: Request<v1::ListCertificatesRequest>,
    ) -> Result<Response<v1::ListCertificatesResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::ListCertificatesRequest { page_size: size, page_token, user } = request.into_inner();
        let asked = match user.as_str() {
            "" => None,
            name => Some(user_id(name).map_err(|denial| accepted.status(denial))?),
        };
        let caller = &accepted.call.caller;
        let own = caller.user.as_ref().filter(|user| !user.roles.contains(Role::Admin));
        let user = asked.or_else(|| own.map(|user| user.id.clone()));
        self.admit_owner(&accepted, user.as_ref(), "ListCertificates").await?;
        let before = page_start(&page_token).map_err(|denial| accepted.status(denial))?;
        let size = page_size(size);
        let query = CertificateQuery { user, before, limit: rows_for(size), ..CertificateQuery::default() };
        let found = self.custodian.ledger().certificates(query).await;
        let found = found.map_err(|error| accepted.status(error.into()))?;
        let (found, next_page_token) = page(found, size, |(id, _)| id.to_string());
        let certificates = found.into_iter().map(|(_, one)| one.into()).collect();
        Ok(Response::new(v1::ListCertificatesResponse { certificates, next_page_token }))
    }

    async fn get_certificate(
        &self,
        request: Request<v1::GetCertificateRequest>,
    ) -> Result<Response<v1::Certificate>, Status> {
        let accepted = self.accept(&request).await?;
        let serial = serial(&request.into_inner().name).map_err(|denial| accepted.status(denial))?;
        let found = self.custodian.ledger().certificate(serial).await;
        let found = found.map_err(|error| accepted.status(error.into()))?;
        self.admit_owner(&accepted, found.as_ref().map(|found| &found.user), "GetCertificate").await?;
        let found = found.ok_or_else(|| accepted.status(Refusal::NotFound.into()))?;
        Ok(Response::new(self.with_issuer(found)))
    }

    async fn revoke_certificate(
        &self,
        request: Request<v1::RevokeCertificateRequest>,
    ) -> Result<Response<v1::Certificate>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let why = match request.get_ref().revocation() {
            v1::RevocationReason::Unspecified | v1::RevocationReason::Cessation => Why::Revoked,
            v1::RevocationReason::KeyCompromise => Why::Compromised,
            v1::RevocationReason::AffiliationChanged => Why::NotTrueAnyMore,
            v1::RevocationReason::Superseded => Why::Replaced,
        };
        let v1::RevokeCertificateRequest { name, reason, .. } = request.into_inner();
        let parsed = serial(&name).and_then(|serial| Ok((serial, required_reason(reason)?)));
        let (serial, reason) = self.parsed(&accepted, "RevokeCertificate", parsed).await?;
        let found = self.custodian.ledger().certificate(serial).await;
        let found = found.map_err(|error| accepted.status(error.into()))?;
        let intent = Intent {
            target: serial.resource_name(),
            reason: reason.clone(),
            ..accepted.call.intent("RevokeCertificate")
        };
        let need = need_of(&accepted.call.caller, found.as_ref().map(|found| &found.user));
        let revoke = Change::RevokeCertificate { serial, why, reason };
        match self.change_certificates(&accepted, need, intent, revoke).await? {
            Changed::Certificate(revoked) => {
                self.people_list.forget();
                Ok(Response::new((*revoked).into()))
            }
            _ => Err(accepted.status(nothing_left())),
        }
    }

    async fn find_certificates(
        &self,
        request: Request<v1::FindCertificatesRequest>,
    ) -> Result<Response<v1::FindCertificatesResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Session, "FindCertificates").await?;
        let usage = match request.get_ref().r#use() {
            v1::CertificateUse::Unspecified => None,
            v1::CertificateUse::Sign => Some(CertificateUse::Sign),
            v1::CertificateUse::Encrypt => Some(CertificateUse::Encrypt),
        };
        let denied = |denial: Denial| accepted.status(denial);
        let email = email(&request.into_inner().email).map_err(denied)?;
        let issuer = self.people().map_err(denied)?.certificate().to_vec();
        let query = CertificateQuery {
            current: Some((email, Timestamp::now())),
            usage,
            limit: MOST_FOUND,
            ..CertificateQuery::default()
        };
        let found = self.custodian.ledger().certificates(query).await;
        let found = found.map_err(|error| accepted.status(error.into()))?;
        // When it was checked, and by what, is nobody else's business.
        let certificates = found.into_iter().map(|(_, one)| one.into()).collect();
        Ok(Response::new(v1::FindCertificatesResponse { certificates, issuer }))
    }

    async fn get_people_revocation_list(
        &self,
        request: Request<v1::GetPeopleRevocationListRequest>,
    ) -> Result<Response<v1::PeopleRevocationList>, Status> {
        let accepted = self.accept(&request).await?;
        let asked = request.into_inner().days;
        let parsed = list_days(asked).and_then(|days| Ok((days, self.people()?)));
        let (days, people) = self.parsed(&accepted, "GetPeopleRevocationList", parsed).await?;
        if !self.custodian.authority().has_session(&accepted.call.caller) {
            // Refused and recorded, without a place in any line.
            let admitted =
                self.custodian.admit(&accepted.call, Need::Session, "GetPeopleRevocationList").await;
            admitted.map_err(|denial| accepted.status(denial))?;
        }
        if asked != 0 {
            let in_line = self.list_turn.in_line(Certified::People);
            let _in_line = in_line.ok_or_else(|| self.room.refuse(accepted.call.request_id))?;
            let (_, list) = self.new_people_list(&accepted, &people, days).await?;
            return Ok(Response::new(list));
        }
        if let Ok(kept) = self.people_list.get(Timestamp::now()) {
            return self.hand_out(&accepted, kept).await;
        }
        let made = timeout_at(self.custodian.token_deadline().into(), self.people_list.turn_to_make()).await;
        // If the token hangs, those who wait must not do so one after the other.
        let _turn = made.map_err(|_| {
            let why = "the revocation list that others wait for was not made in time".to_owned();
            accepted.status(Fault::TokenUnavailable(why).into())
        })?;
        match self.people_list.get(Timestamp::now()) {
            Ok(kept) => self.hand_out(&accepted, kept).await,
            Err(generation) => {
                let (made, list) = self.new_people_list(&accepted, &people, days).await?;
                self.people_list.keep(generation, made, list.clone());
                Ok(Response::new(list))
            }
        }
    }
}

impl Api {
    fn people(&self) -> Result<Arc<PeopleCa>, Denial> {
        self.people.clone().ok_or_else(|| {
            let detail =
                "this custodian certifies nobody: it has no people's CA (custodian people-ca makes one)";
            Denial::Refused { refusal: Refusal::StateConflict, detail: detail.to_owned() }
        })
    }

    /// The kept revocation list, for whoever may have it.
    async fn hand_out(
        &self,
        accepted: &Accepted,
        kept: v1::PeopleRevocationList,
    ) -> Result<Response<v1::PeopleRevocationList>, Status> {
        let admitted = self.custodian.admit(&accepted.call, Need::Session, "GetPeopleRevocationList").await;
        admitted.map(|()| Response::new(kept)).map_err(|denial| accepted.status(denial))
    }

    /// Makes a revocation list that calls for the next one in so many days. And when.
    async fn new_people_list(
        &self,
        accepted: &Accepted,
        people: &PeopleCa,
        days: u32,
    ) -> Result<(Timestamp, v1::PeopleRevocationList), Status> {
        let now = Timestamp::now();
        let (number, revoked) =
            self.revoked(accepted, Need::Session, "GetPeopleRevocationList", Certified::People).await?;
        let next_update = now + jiff::SignedDuration::from_hours(24 * i64::from(days));
        let crl = people.revocation_list(number, revoked, now, next_update).await;
        let list = v1::PeopleRevocationList {
            crl: crl.map_err(|error| accepted.status(error.into()))?,
            number,
            next_update_time: Some(timestamp(next_update)),
            issuer: people.certificate().to_vec(),
        };
        Ok((now, list))
    }

    /// Signs a certificate that says what is recorded now. The settling transaction looks whether that still is so.
    async fn certify_person(
        &self,
        user: &UserId,
        session: SessionId,
        wanted: Wanted,
    ) -> Result<Change, Denial> {
        let people = self.people()?;
        let person = self.custodian.ledger().person(user).await?.ok_or(Refusal::IdentityUnknown)?;
        if wanted.email.is_some_and(|email| email != person.email) {
            let detail = format!("email: the address that is recorded is {}", person.email);
            return Err(Denial::Refused { refusal: Refusal::InvalidArgument, detail });
        }
        let validity = Validity::days(self.lifetimes.person_days)?;
        let certificate = people.issue(&person, wanted.usage, &wanted.spki, validity).await?;
        let unreadable =
            |why: String| Denial::from(Fault::Internal(format!("the certificate just issued: {why}")));
        let facts = CertificateFacts::read(&certificate).map_err(|error| unreadable(error.to_string()))?;
        let (serial, key) = serial_and_key(&certificate).map_err(|error| unreadable(error.to_string()))?;
        let issued = PersonCertificate {
            serial,
            user: user.clone(),
            usage: wanted.usage,
            email: person.email,
            level: person.level,
            key,
            certificate,
            issued: Timestamp::now(),
            expires: facts.not_after,
            revoked: None,
        };
        let spki = SpkiHash(Sha256::digest(&wanted.spki).into());
        Ok(Change::AddCertificate { certificate: Box::new(issued), spki, session })
    }

    fn with_issuer(&self, certificate: PersonCertificate) -> v1::Certificate {
        let issuer = self.people.as_ref().map(|people| people.certificate().to_vec()).unwrap_or_default();
        v1::Certificate { issuer, ..certificate.into() }
    }

    /// What is this user's is read by that user, and by administrators.
    async fn admit_owner(
        &self,
        accepted: &Accepted,
        owner: Option<&UserId>,
        operation: &'static str,
    ) -> Result<(), Status> {
        let need = need_of(&accepted.call.caller, owner);
        let admitted = self.custodian.admit(&accepted.call, need, operation).await;
        admitted.map_err(|denial| accepted.status(denial))
    }

    async fn change_certificates(
        &self,
        accepted: &Accepted,
        need: Need<'static>,
        intent: Intent,
        change: Change,
    ) -> Result<Changed, Status> {
        let prepare = async move { Ok((change, ())) };
        let changed = self.custodian.change(accepted.call.clone(), need, intent, prepare).await;
        changed.map(|(changed, ())| changed).map_err(|denial| accepted.status(denial))
    }
}

/// What a certificate is asked for.
struct Wanted {
    usage: CertificateUse,
    /// SubjectPublicKeyInfo, DER.
    spki: Vec<u8>,
    email: Option<Email>,
}

fn wanted(request: v1::RequestCertificateRequest) -> Result<Wanted, Denial> {
    let usage = match request.r#use() {
        v1::CertificateUse::Sign => CertificateUse::Sign,
        v1::CertificateUse::Encrypt => CertificateUse::Encrypt,
        v1::CertificateUse::Unspecified => return Err(invalid("use: must be sign or encrypt")),
    };
    let spki = match usage {
        CertificateUse::Sign => csr::verify(&request.certificate_request),
        CertificateUse::Encrypt => csr::verify_rsa(&request.certificate_request),
    };
    let spki = spki.map_err(|error| invalid(format!("certificate_request: {error}")))?;
    let email = (!request.email.is_empty()).then(|| email(&request.email)).transpose()?;
    Ok(Wanted { usage, spki, email })
}

fn person(request: v1::SetIdentityRequest) -> Result<Person, Denial> {
    let level = match request.level() {
        v1::IdentityLevel::V1 => IdentityLevel::V1,
        v1::IdentityLevel::V2 => IdentityLevel::V2,
        v1::IdentityLevel::V3 => IdentityLevel::V3,
        v1::IdentityLevel::V4 => IdentityLevel::V4,
        v1::IdentityLevel::Unspecified => return Err(invalid("level: must be V1, V2, V3 or V4")),
    };
    let v1::SetIdentityRequest { user, email: address, level: _, evidence } = request;
    if evidence.len() > MAX_TEXT_LEN {
        return Err(invalid("evidence: may have 1,024 bytes"));
    }
    let email = email(&address)?;
    Ok(Person { user: user_id(&user)?, email, level, evidence, since: Timestamp::now() })
}

fn email(text: &str) -> Result<Email, Denial> {
    text.parse().map_err(|error| invalid(format!("email: {error}")))
}

/// `certificates/SERIAL` out of a request.
fn serial(name: &str) -> Result<Serial, Denial> {
    let serial = name.strip_prefix("certificates/").and_then(|serial| serial.parse().ok());
    serial.ok_or_else(|| invalid("name: must be certificates/SERIAL, SERIAL being 32 hex digits"))
}

fn need_of(caller: &Caller, owner: Option<&UserId>) -> Need<'static> {
    let is_own = |user: &User| Some(&user.id) == owner;
    if caller.user.as_ref().is_some_and(is_own) { Need::Session } else { ADMIN }
}

fn nothing_left() -> Denial {
    Fault::Internal("a change of certificates left nothing".into()).into()
}

impl From<Person> for v1::Identity {
    fn from(person: Person) -> Self {
        Self {
            user: person.user.resource_name(),
            email: person.email.to_string(),
            level: api_level(person.level),
            evidence: person.evidence,
            update_time: Some(timestamp(person.since)),
        }
    }
}

impl From<PersonCertificate> for v1::Certificate {
    fn from(one: PersonCertificate) -> Self {
        let usage = match one.usage {
            CertificateUse::Sign => v1::CertificateUse::Sign,
            CertificateUse::Encrypt => v1::CertificateUse::Encrypt,
        };
        let revocation = one.revoked.as_ref().map_or(v1::RevocationReason::Unspecified, |it| match it.why {
            Why::Revoked | Why::Suspended => v1::RevocationReason::Cessation,
            Why::Compromised => v1::RevocationReason::KeyCompromise,
            Why::NotTrueAnyMore => v1::RevocationReason::AffiliationChanged,
            Why::Replaced => v1::RevocationReason::Superseded,
        });
        Self {
            name: one.serial.resource_name(),
            user: one.user.resource_name(),
            r#use: usage.into(),
            email: one.email.to_string(),
            level: api_level(one.level),
            certificate: one.certificate,
            issue_time: Some(timestamp(one.issued)),
            expire_time: Some(timestamp(one.expires)),
            revoke_time: one.revoked.as_ref().map(|revoked| timestamp(revoked.since)),
            revocation: revocation.into(),
            reason: one.revoked.map(|revoked| revoked.reason).unwrap_or_default(),
            issuer: Vec::new(),
        }
    }
}

fn api_level(level: IdentityLevel) -> i32 {
    match level {
        IdentityLevel::V1 => v1::IdentityLevel::V1.into(),
        IdentityLevel::V2 => v1::IdentityLevel::V2.into(),
        IdentityLevel::V3 => v1::IdentityLevel::V3.into(),
        IdentityLevel::V4 => v1::IdentityLevel::V4.into(),
    }
}

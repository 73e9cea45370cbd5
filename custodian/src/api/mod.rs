//! The gRPC services: parse, call, reply. One file each.

mod approvals;
mod attestation;
mod audit;
mod batch;
mod budgets;
mod call;
mod certificates;
mod custody;
mod devices;
mod factor;
mod import;
mod keys;
mod large;
mod log;
mod new_key;
mod people_list;
mod policies;
mod resource;
mod revoked;
mod room;
mod session;
mod status;
mod streams;
mod system;
mod timestamp;
mod tokens;
mod users;
mod without;

use std::{sync::Arc, time::Duration};

use custodian_proto::{
    limits::{MAX_CHECK_LEN, MAX_MESSAGE_LEN, MAX_PAGE_LEN},
    v1::{
        approval_service_server::ApprovalServiceServer, audit_service_server::AuditServiceServer,
        budget_service_server::BudgetServiceServer, certificate_service_server::CertificateServiceServer,
        custody_service_server::CustodyServiceServer, device_service_server::DeviceServiceServer,
        factor_service_server::FactorServiceServer, key_service_server::KeyServiceServer,
        log_service_server::LogServiceServer, policy_service_server::PolicyServiceServer,
        session_service_server::SessionServiceServer, status_service_server::StatusServiceServer,
        timestamp_service_server::TimestampServiceServer, token_service_server::TokenServiceServer,
        user_service_server::UserServiceServer,
    },
};
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    authority::{LoginThrottle, Passwords, SealingKey, Strangers},
    custody::Custodian,
    log::Log,
    pki::{DeviceCa, people::PeopleCa},
    siem::SiemState,
    token::Pool,
    tsa::TsaRules,
};

use room::Room;

pub(crate) use new_key::{GENERATION, NewKey};
pub(crate) use session::random_token;
pub use status::to_status;

/// What the services share.
#[derive(Clone)]
pub struct Api {
    custodian: Arc<Custodian>,
    tokens: Arc<Pool>,
    passwords: Arc<Passwords>,
    throttle: Arc<LoginThrottle>,
    ca: Arc<DeviceCa>,
    people: Option<Arc<PeopleCa>>,
    log: Arc<Log>,
    sealing: Arc<SealingKey>,
    siem: Option<watch::Receiver<SiemState>>,
    timestamps: TsaRules,
    lifetimes: Lifetimes,
    room: Room,
    batches: batch::Batches,
    tails: Arc<Semaphore>,
    streams: streams::Streams,
    strangers: Arc<Strangers>,
    people_list: Arc<people_list::KeptList>,
    list_turn: Arc<revoked::ListTurn>,
    /// Whose key for OpenPGP is being made.
    openpgp_turn: Arc<Mutex<()>>,
    shutdown: CancellationToken,
    started: Timestamp,
}

/// What the token signs beside unwrapping, and who is told of it.
#[derive(Clone)]
pub struct Signers {
    /// Certificates.
    pub ca: Arc<DeviceCa>,
    /// Certificates of people, if it has a CA for that.
    pub people: Option<Arc<PeopleCa>>,
    /// Checkpoints of the log.
    pub log: Arc<Log>,
    /// How the stream of records to a SIEM is, if there is one.
    pub siem: Option<watch::Receiver<SiemState>>,
    /// What timestamps go by.
    pub timestamps: TsaRules,
}

/// How long what the custodian issues is valid.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Device certificates.
    pub device_days: u32,
    /// Certificates of wrapping keys.
    pub wrapping_key_days: u32,
    /// Certificates of people.
    pub person_days: u32,
}

/// How much is served at once. Beyond it the answer is RESOURCE_EXHAUSTED, at once.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimits {
    /// Calls, over all connections.
    pub calls: usize,
    /// Of those, the ones that ask a token: as many as all tokens have room for.
    pub asking_token: usize,
    /// Open TailRecords streams.
    pub tails: usize,
}

impl Api {
    /// Serves this custodian, whose tokens these are. Streams that would never end do so on `shutdown`.
    #[expect(clippy::too_many_arguments, reason = "it joins parts, and each is one")]
    pub fn new(
        custodian: Arc<Custodian>,
        tokens: Arc<Pool>,
        passwords: Passwords,
        throttle: LoginThrottle,
        Signers { ca, people, log, siem, timestamps }: Signers,
        sealing: SealingKey,
        lifetimes: Lifetimes,
        limits: ApiLimits,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            custodian,
            tokens,
            passwords: Arc::new(passwords),
            throttle: Arc::new(throttle),
            ca,
            people,
            log,
            sealing: Arc::new(sealing),
            siem,
            timestamps,
            lifetimes,
            room: Room::new(&limits),
            batches: batch::Batches::default(),
            tails: Arc::new(Semaphore::new(limits.tails)),
            streams: streams::Streams::default(),
            strangers: Arc::default(),
            people_list: Arc::default(),
            list_turn: Arc::default(),
            openpgp_turn: Arc::default(),
            shutdown,
            started: Timestamp::now(),
        }
    }

    /// Begins a new minute. For each kind of call, how many were refused in the old one that were not recorded one by one.
    pub fn turned_away(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("more calls of strangers", self.strangers.roll()),
            ("calls that found no room", self.room.roll()),
        ]
    }

    /// Waits until no call is under way, whether somebody waits for its answer or not; at most this long. Whether it is so then.
    pub async fn until_idle(&self, limit: Duration) -> bool {
        self.room.until_idle(limit).await
    }

    /// All services of `custodian.v1`, each with its limits on message size.
    pub fn routes(&self) -> Routes {
        macro_rules! service {
            ($server:ident, $out:expr) => {
                $server::new(self.clone())
                    .max_decoding_message_size(MAX_MESSAGE_LEN)
                    .max_encoding_message_size($out)
            };
        }
        let budgets = service!(BudgetServiceServer, MAX_PAGE_LEN).max_decoding_message_size(MAX_CHECK_LEN);
        Routes::new(service!(CustodyServiceServer, MAX_MESSAGE_LEN))
            .add_service(service!(TimestampServiceServer, MAX_MESSAGE_LEN))
            .add_service(service!(SessionServiceServer, MAX_MESSAGE_LEN))
            .add_service(service!(KeyServiceServer, MAX_PAGE_LEN))
            .add_service(service!(DeviceServiceServer, MAX_PAGE_LEN))
            .add_service(service!(UserServiceServer, MAX_PAGE_LEN))
            .add_service(service!(FactorServiceServer, MAX_MESSAGE_LEN))
            .add_service(service!(AuditServiceServer, MAX_PAGE_LEN))
            .add_service(service!(LogServiceServer, MAX_PAGE_LEN))
            .add_service(service!(PolicyServiceServer, MAX_PAGE_LEN))
            .add_service(large::Large::new(budgets, Arc::clone(self.custodian.ledger()), self.room.clone()))
            .add_service(service!(StatusServiceServer, MAX_MESSAGE_LEN))
            .add_service(service!(TokenServiceServer, MAX_PAGE_LEN))
            .add_service(service!(ApprovalServiceServer, MAX_PAGE_LEN))
            .add_service(service!(CertificateServiceServer, MAX_PAGE_LEN))
    }
}

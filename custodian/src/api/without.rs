//! Who would lose access if a user or a device went away: told from what was recorded, and from what the policy says of
//! the others.

use std::collections::BTreeMap;

use custodian_proto::{key::KeyId, limits::MAX_PAGE_SIZE, v1};
use jiff::Timestamp;

use super::{
    Api,
    call::invalid,
    policies::Known,
    resource::{api_roles, device_id, key_id, user_id},
};
use crate::{
    authority::{Answer, Device, DeviceState, Question, Role, Roles, User},
    custody::Denial,
    ledger::{OK, RecordQuery},
};

/// Records that are read at once, and at most.
const AT_ONCE: u32 = 1_000;
const MOST_RECORDS: u64 = 20_000;

/// Pairs of user and device that are tried for each key.
const MOST_PAIRS: usize = 10_000;

/// Others that are named for each key.
const MOST_NAMED: usize = 10;

/// Who would be gone.
pub(super) enum Gone {
    User(String),
    Device(String),
}

impl Gone {
    /// `users/anna` or `devices/laptop-7` out of a request.
    pub(super) fn parse(name: &str) -> Result<Self, Denial> {
        match (user_id(name), device_id(name)) {
            (Ok(_), _) => Ok(Self::User(name.to_owned())),
            (_, Ok(_)) => Ok(Self::Device(name.to_owned())),
            _ => Err(invalid("name: must be users/ID or devices/ID")),
        }
    }

    fn is(&self, user: &User, device: &Device) -> bool {
        match self {
            Self::User(name) => user.id.resource_name() == *name,
            Self::Device(name) => device.id.resource_name() == *name,
        }
    }

    fn query(&self) -> RecordQuery {
        let (user, device) = match self {
            Self::User(name) => (Some(name.clone()), None),
            Self::Device(name) => (None, Some(name.clone())),
        };
        let (operation, outcome) = (Some("Unwrap".to_owned()), Some(OK.to_owned()));
        RecordQuery {
            user,
            device,
            operation,
            outcome,
            newest_first: true,
            limit: AT_ONCE,
            ..RecordQuery::default()
        }
    }
}

/// The released file keys of one wrapping key.
struct Used {
    count: u64,
    /// The newest attempt, as a question.
    newest: Question,
}

impl Api {
    /// What would be missing without that user or device, by the attempts since `start`.
    pub(super) async fn without(
        &self,
        gone: &Gone,
        start: Timestamp,
    ) -> Result<v1::ExplainWithoutResponse, Denial> {
        let used = self.used_by(gone, start).await?;
        let (users, devices) = (self.enabled_users().await?, self.active_devices().await?);
        let pairs: Vec<_> = users
            .iter()
            .flat_map(|user| devices.iter().map(move |device| (user, device)))
            .filter(|(user, device)| !gone.is(user, device))
            .collect();
        let mut told = v1::ExplainWithoutResponse {
            attempts: used.values().map(|used| used.count).sum(),
            roles: lost_roles(gone, &users),
            last_device: matches!(gone, Gone::Device(name)
                if devices.iter().any(|device| device.id.resource_name() == *name) && devices.len() == 1),
            ..v1::ExplainWithoutResponse::default()
        };
        for (key, Used { count, newest }) in used {
            let label = newest.key.as_ref().map(|(_, label)| label.clone()).unwrap_or_default();
            let others = self.others(&newest, &pairs).await?;
            told.keys.push(v1::KeyWithout { key: key.resource_name(), label, attempts: count, others });
        }
        Ok(told)
    }

    /// What it opened, by wrapping key.
    async fn used_by(&self, gone: &Gone, start: Timestamp) -> Result<BTreeMap<KeyId, Used>, Denial> {
        let mut used: BTreeMap<KeyId, Used> = BTreeMap::new();
        let mut known = Known::default();
        let mut beyond = None;
        for _ in 0..MOST_RECORDS / u64::from(AT_ONCE) {
            let query = RecordQuery { start: Some(start), beyond, ..gone.query() };
            let records = self.custodian.ledger().records(query).await?;
            beyond = records.last().map(|record| record.sequence);
            let is_last = records.len() < AT_ONCE as usize;
            for record in records {
                let Ok(key) = key_id(&record.key) else { continue };
                if let Some(used) = used.get_mut(&key) {
                    used.count += 1;
                } else if let Some(newest) = known.question(self, &record).await? {
                    used.insert(key, Used { count: 1, newest });
                }
            }
            if is_last {
                break;
            }
        }
        Ok(used)
    }

    /// Those for whom the policy would allow the same, with a second factor just shown.
    async fn others(&self, question: &Question, pairs: &[(&User, &Device)]) -> Result<Vec<String>, Denial> {
        let policy = self.custodian.authority().policy();
        let operators = pairs.iter().filter(|(user, _)| user.roles.contains(Role::Operator));
        let mut others = Vec::new();
        for (index, (user, device)) in operators.take(MOST_PAIRS).enumerate() {
            if index % 100 == 99 {
                // Others have their turn.
                tokio::task::yield_now().await;
            }
            let asked = Question {
                user: user.id.clone(),
                roles: user.roles,
                groups: user.groups.clone(),
                device: device.id.clone(),
                device_groups: device.groups.clone(),
                enrolled: device.enrolled,
                factor: Some(question.now),
                ..question.clone()
            };
            if policy.decide(&asked)?.decision == Answer::Allowed {
                others.push(format!("{} on {}", user.id.resource_name(), device.id.resource_name()));
                if others.len() == MOST_NAMED {
                    break;
                }
            }
        }
        Ok(others)
    }

    async fn enabled_users(&self) -> Result<Vec<User>, Denial> {
        let mut users = Vec::new();
        let mut after = None;
        loop {
            let page = self.custodian.ledger().users(after, MAX_PAGE_SIZE).await?;
            let is_last = page.len() < MAX_PAGE_SIZE as usize;
            after = page.last().map(|user| user.id.clone());
            users.extend(page.into_iter().filter(|user| !user.disabled));
            if is_last {
                return Ok(users);
            }
        }
    }

    async fn active_devices(&self) -> Result<Vec<Device>, Denial> {
        let now = Timestamp::now();
        let mut devices = Vec::new();
        let mut after = None;
        loop {
            let page = self.custodian.ledger().devices(after, MAX_PAGE_SIZE).await?;
            let is_last = page.len() < MAX_PAGE_SIZE as usize;
            after = page.last().map(|device| device.id.clone());
            let good = |device: &Device| device.state == DeviceState::Active && device.expires > now;
            devices.extend(page.into_iter().filter(good));
            if is_last {
                return Ok(devices);
            }
        }
    }
}

/// Roles that nobody else has.
fn lost_roles(gone: &Gone, users: &[User]) -> Vec<i32> {
    let Gone::User(name) = gone else { return Vec::new() };
    let (lost, left): (Vec<_>, Vec<_>) = users.iter().partition(|user| user.id.resource_name() == *name);
    let of = |users: &[&User]| users.iter().flat_map(|user| user.roles.iter()).collect::<Roles>();
    let (lost, left) = (of(&lost), of(&left));
    api_roles(lost.iter().filter(|role| !left.contains(*role)).collect())
}

//! One question to a policy: who wants to do what, and under which circumstances.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use custodian_proto::{key::KeyId, v1};
use jiff::{Timestamp, tz::TimeZone};

use super::{kept::Kept, operation};
use crate::authority::{Caller, DeviceId, Groups, Roles, UserId};

/// What is asked, with everything a policy can look at.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who asks.
    pub user: UserId,
    /// The roles of that user.
    pub roles: Roles,
    /// The groups of that user.
    pub groups: Groups,
    /// The workstation.
    pub device: DeviceId,
    /// The groups of that workstation.
    pub device_groups: Groups,
    /// Since when it is enrolled with its present key.
    pub enrolled: Timestamp,
    /// The operation, as the log names it.
    pub operation: String,
    /// The wrapping key it uses, and that key's label.
    pub key: Option<(KeyId, String)>,
    /// What it is about, if that is no key: `devices/laptop-7`.
    pub target: String,
    /// For `Approve`: the operation that is to be approved.
    pub approves: String,
    /// The reason given, or empty.
    pub reason: String,
    /// The caller's address.
    pub ip: IpAddr,
    /// When.
    pub now: Timestamp,
    /// When the user signed in.
    pub signed_in: Timestamp,
    /// When the session last showed the second factor.
    pub factor: Option<Timestamp>,
    /// What the caller claims about the file.
    pub claims: v1::Claims,
    /// How many witnesses have cosigned the log lately.
    pub cosigners: u32,
}

impl Question {
    /// The question that this caller's operation raises. `None` for a caller without device or login: no policy helps
    /// there.
    pub fn of(caller: &Caller, operation: &str, now: Timestamp) -> Option<Self> {
        let (user, device, session) =
            (caller.user.as_ref()?, caller.device.as_ref()?, caller.session.as_ref()?);
        Some(Self {
            user: user.id.clone(),
            roles: user.roles,
            groups: user.groups.clone(),
            device: device.id.clone(),
            device_groups: device.groups.clone(),
            enrolled: device.enrolled,
            operation: operation.to_owned(),
            key: None,
            target: String::new(),
            approves: String::new(),
            reason: String::new(),
            ip: caller.peer.ip,
            now,
            signed_in: session.created,
            factor: session.factor,
            claims: v1::Claims::default(),
            cosigners: 0,
        })
    }

    /// As Cedar sees it. This is on the way of every unwrap: with a schema Cedar would check each time what is always built
    /// here in the same way, and would carry along every action there is. So only tests have the schema checked.
    pub(super) fn to_cedar(&self, schema: &Schema) -> Result<(Request, Arc<Entities>), String> {
        let schema = cfg!(debug_assertions).then_some(schema);
        let user = uid("User", self.user.as_str())?;
        let device = uid("Device", self.device.as_str())?;
        let action = uid("Action", &self.operation)?;
        let facts = self.facts();
        let resource = facts.resource()?;
        let request = Request::new(user, action, resource, self.context(device)?, schema).map_err(text)?;
        let entities = ENTITIES.get(facts, |facts| facts.entities(schema).map(Arc::new))?;
        Ok((request, entities))
    }

    fn facts(&self) -> Facts {
        Facts {
            user: self.user.clone(),
            roles: self.roles,
            groups: self.groups.clone(),
            device: self.device.clone(),
            device_groups: self.device_groups.clone(),
            enrolled: self.enrolled,
            operation: self.operation.clone(),
            key: self.key.clone(),
        }
    }

    fn context(&self, device: EntityUid) -> Result<Context, String> {
        let at = self.now.to_zoned(TimeZone::UTC);
        let size = i64::try_from(self.claims.file_size).unwrap_or(i64::MAX);
        let pairs = [
            ("device", RestrictedExpression::new_entity_uid(device)),
            ("ip", address(self.ip.to_canonical())),
            ("now", long(self.now.as_second())),
            ("hour", long(at.hour().into())),
            ("minute", long(at.minute().into())),
            ("weekday", long(at.weekday().to_monday_one_offset().into())),
            ("login_age", long(self.now.duration_since(self.signed_in).as_secs().max(0))),
            ("reason", string(if self.reason.is_empty() { &self.claims.reason } else { &self.reason })),
            ("target", string(&self.target)),
            ("approves", string(&self.approves)),
            ("file_name", string(&self.claims.file_name)),
            ("file_size", long(size)),
            ("file_format", string(&self.claims.format)),
            ("cosigners", long(self.cosigners.into())),
        ];
        let shown = self.factor.map(|shown| self.now.duration_since(shown).as_secs().max(0));
        let pairs = pairs.into_iter().chain(shown.map(|age| ("mfa_age", long(age))));
        Context::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value))).map_err(text)
    }
}

/// The part of a question that is the same for many: who, from where, what, and with which key.
#[derive(PartialEq, Eq, Hash)]
struct Facts {
    user: UserId,
    roles: Roles,
    groups: Groups,
    device: DeviceId,
    device_groups: Groups,
    enrolled: Timestamp,
    operation: String,
    key: Option<(KeyId, String)>,
}

/// Cedar works out each time who is in which group. Whoever asks for many file keys asks with the same entities.
static ENTITIES: LazyLock<Kept<Facts, Arc<Entities>>> = LazyLock::new(Kept::default);

impl Facts {
    fn entities(&self, schema: Option<&Schema>) -> Result<Entities, String> {
        let label = self.key.as_ref().map(|(_, label)| ("label", string(label)));
        let roles = self.roles.iter().map(|role| string(role.name()));
        let groups = operation::groups(&self.operation).iter().map(|group| uid("Action", group.name()));
        let entities = [
            Entity::new_no_attrs(uid("Action", &self.operation)?, groups.collect::<Result<_, _>>()?),
            entity(
                &uid("User", self.user.as_str())?,
                vec![("roles", RestrictedExpression::new_set(roles))],
                &uids("Group", &self.groups)?,
            )?,
            entity(
                &uid("Device", self.device.as_str())?,
                vec![("enrolled", long(self.enrolled.as_second()))],
                &uids("DeviceGroup", &self.device_groups)?,
            )?,
            entity(&self.resource()?, label.into_iter().collect(), &[])?,
        ];
        Entities::from_entities(entities, schema).map_err(text)
    }

    fn resource(&self) -> Result<EntityUid, String> {
        match &self.key {
            Some((id, _)) => uid("Key", &id.to_string()),
            None => uid("Custodian", "custodian"),
        }
    }
}

fn entity(
    uid: &EntityUid,
    facts: Vec<(&str, RestrictedExpression)>,
    groups: &[EntityUid],
) -> Result<Entity, String> {
    let facts: HashMap<_, _> = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Entity::new(uid.clone(), facts, groups.iter().cloned().collect::<HashSet<_>>()).map_err(text)
}

fn uids(kind: &'static str, groups: &Groups) -> Result<Vec<EntityUid>, String> {
    groups.iter().map(|name| uid(kind, name)).collect()
}

/// The id is data, not syntax: nothing in it can become part of a policy.
fn uid(kind: &'static str, id: &str) -> Result<EntityUid, String> {
    let kind = KINDS.get(kind).ok_or_else(|| format!("there are no entities {kind}"))?;
    Ok(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id)))
}

/// The names of the entities' types. Parsing one takes longer than asking a policy.
static KINDS: LazyLock<HashMap<&str, EntityTypeName>> = LazyLock::new(|| {
    let kinds = ["Action", "Custodian", "Device", "DeviceGroup", "Group", "Key", "User"];
    kinds.into_iter().filter_map(|kind| Some((kind, kind.parse().ok()?))).collect()
});

/// Making the expression of an address runs Cedar's parser each time, for the name of its function `ip`. Callers stay at their
/// addresses.
fn address(ip: IpAddr) -> RestrictedExpression {
    static MADE: LazyLock<Kept<IpAddr, RestrictedExpression>> = LazyLock::new(Kept::default);
    let Ok(made) = MADE.get(ip, |ip| Ok::<_, Infallible>(RestrictedExpression::new_ip(ip.to_string())));
    made
}

fn string(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn long(value: i64) -> RestrictedExpression {
    RestrictedExpression::new_long(value)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

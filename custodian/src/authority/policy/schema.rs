//! What policies can speak about, as a Cedar schema.

use std::fmt::Write;

use cedar_policy::Schema;

use super::operation::{Group, OPERATIONS};

/// Everything but the actions.
const TYPES: &str = r#"// Who asks. Roles: operator, auditor, admin. Groups as administrators gave them: principal in Group::"board".
entity Group;
entity User in [Group] = { roles: Set<String> };

// The workstation: since when it is enrolled, in seconds since 1970. Renewing its certificate by itself changes nothing of that.
// Its groups: context.device in DeviceGroup::"office".
entity DeviceGroup;
entity Device in [DeviceGroup] = { enrolled: Long };

// A wrapping key or a signing key.
entity Key = { label: String };

// What operations without a key are about.
entity Custodian;

type Circumstances = {
  // The workstation, and its address.
  device: Device,
  ip: ipaddr,
  // Seconds since 1970, and what that is in UTC. Weekdays: 1 is Monday, 7 is Sunday.
  now: Long,
  hour: Long,
  minute: Long,
  weekday: Long,
  // How old the login is, in seconds.
  login_age: Long,
  // How long ago this login showed the second factor, in seconds. Not there if it never did: ask for `context has mfa_age`.
  mfa_age?: Long,
  // The reason that was given; "" if none.
  reason: String,
  // What the operation is about, by its resource name, if that is no key: "devices/laptop-7". "" if nothing.
  target: String,
  // For the action Approve: the operation that is to be approved, by its name. "" for others.
  approves: String,
  // What the caller claims about the file. Not verified. "" and 0 if nothing.
  file_name: String,
  file_size: Long,
  file_format: String,
  // How many of the configured witnesses have cosigned the log within log.cosigners_within.
  cosigners: Long,
};

// Own: what people do for themselves, whatever their roles. It is permitted, unless a rule forbids it.
action Open, Audit, Administer, Own;
"#;

/// The schema, for people and for the validator.
pub(super) fn text() -> String {
    let mut text = TYPES.to_owned();
    for (operation, groups) in OPERATIONS {
        let resource = if groups.contains(&Group::Open) { "Key" } else { "[Custodian, Key]" };
        let groups: Vec<_> = groups.iter().map(|group| group.name()).collect();
        // Writing to a String does not fail.
        writeln!(
            text,
            "action {operation} in [{}] appliesTo {{ principal: User, resource: {resource}, context: Circumstances }};",
            groups.join(", ")
        )
        .ok();
    }
    text
}

/// The schema, parsed.
pub(super) fn parse() -> Result<Schema, String> {
    Schema::from_cedarschema_str(&text()).map(|(schema, _)| schema).map_err(|error| error.to_string())
}

//! What a policy is asked about: the operations of the API that need a role.

/// Which of the default roles an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Group {
    /// `Action::"Open"`: what operators do.
    Open,
    /// `Action::"Audit"`.
    Audit,
    /// `Action::"Administer"`.
    Administer,
}

impl Group {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::Audit => "Audit",
            Self::Administer => "Administer",
        }
    }
}

/// Every operation that a policy decides on, as the log names it.
pub(super) const OPERATIONS: &[(&str, Group)] = &[
    ("Unwrap", Group::Open),
    ("ListRecords", Group::Audit),
    ("TailRecords", Group::Audit),
    ("GetCheckpoint", Group::Audit),
    ("GetTile", Group::Audit),
    ("GetEntries", Group::Audit),
    ("InviteDevice", Group::Administer),
    ("ListDevices", Group::Administer),
    ("GetDevice", Group::Administer),
    ("ActivateDevice", Group::Administer),
    ("CreateUser", Group::Administer),
    ("ListUsers", Group::Administer),
    ("EnableUser", Group::Administer),
    ("SetPassword", Group::Administer),
    ("SetRoles", Group::Administer),
    ("CreateKey", Group::Administer),
    ("RotateKey", Group::Administer),
    ("ActivateKey", Group::Administer),
    ("LimitKey", Group::Administer),
    ("DestroyKey", Group::Administer),
    ("ListUnwrapped", Group::Administer),
    ("ListTokens", Group::Administer),
    ("DrainToken", Group::Administer),
    ("ResumeToken", Group::Administer),
    ("GetPolicy", Group::Administer),
    ("ListPolicies", Group::Administer),
    ("ApplyPolicy", Group::Administer),
    ("TestPolicy", Group::Administer),
    ("ExplainPolicy", Group::Administer),
];

/// Operations that stop somebody or something. No policy is asked: an administrator can always do them alone, whatever
/// policy somebody applied.
pub(super) const ALWAYS_ALLOWED: &[&str] = &["RevokeDevice", "SuspendDevice", "DisableUser", "SuspendKey"];

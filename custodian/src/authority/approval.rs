//! Approvals: what others must say yes to before it is done.

use std::{fmt, net::IpAddr, num::NonZeroU32, str::FromStr, sync::Arc};

use custodian_proto::{
    approval::{Bound, Glass},
    key::KeyId,
    v1::Claims,
};
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::{DeviceId, UserId};

/// How many approvals a request to break the glass needs at least: never one person and a friend.
pub const LEAST_FOR_BREAK_GLASS: u32 = 2;

/// An approval's id: the number of the record of the attempt that asked for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ApprovalId(pub u64);

impl ApprovalId {
    /// The resource name, `approvals/17`.
    pub fn resource_name(self) -> String {
        format!("approvals/{}", self.0)
    }
}

impl FromStr for ApprovalId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How long approvals last, and what breaking the glass takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApprovalRules {
    /// A request waits, and may be made once approved, for this long.
    pub lifetime: SignedDuration,
    /// Approvals that a request to break the glass needs.
    pub break_glass: NonZeroU32,
    /// Such a request waits, and may be made once approved, for this long.
    pub break_glass_lifetime: SignedDuration,
}

impl Default for ApprovalRules {
    /// A day; two others, and an hour.
    fn default() -> Self {
        Self {
            lifetime: SignedDuration::from_hours(24),
            break_glass: NonZeroU32::MIN.saturating_add(1),
            break_glass_lifetime: SignedDuration::from_hours(1),
        }
    }
}

/// A request as it came, kept for as long as an approval may be bound to it.
#[derive(Clone, Default)]
pub enum Asked {
    /// Not kept: the policy asked for no approvals when it came.
    #[default]
    NotKept,
    /// The message without its passwords.
    Kept(Arc<AskedRequest>),
    /// A stream that was approved when it began, and goes on.
    GoesOn,
}

impl Asked {
    /// Whether it asks to break the glass.
    pub fn glass(&self) -> Glass {
        match self {
            Self::Kept(request) => request.glass,
            Self::NotKept | Self::GoesOn => Glass::Whole,
        }
    }
}

// What callers send is nothing to print.
impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotKept => "NotKept",
            Self::Kept(_) => "Kept",
            Self::GoesOn => "GoesOn",
        })
    }
}

/// The message of a call, and whether it asks to break the glass.
pub struct AskedRequest {
    /// Serialised, without its passwords where a policy can be asked. Others have them in it, and it is not kept.
    pub message: Zeroizing<Vec<u8>>,
    /// Whether it asks to.
    pub glass: Glass,
}

/// What somebody asks others to approve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApprovalRequest {
    /// Who asks.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// From which address.
    pub ip: IpAddr,
    /// The operation, as the log names it.
    pub operation: String,
    /// Resource name of what it is about, or empty.
    pub target: String,
    /// The wrapping key, if there is one.
    pub key: Option<KeyId>,
    /// The reason given, or empty.
    pub reason: String,
    /// What the caller claims about the file.
    pub claims: Option<Claims>,
    /// The message, serialised, without its passwords.
    pub message: Vec<u8>,
    /// Whether it would break the glass.
    pub glass: Glass,
    /// How many others must approve.
    pub needed: NonZeroU32,
    /// When the approval ends.
    pub expires: Timestamp,
}

impl ApprovalRequest {
    /// What approvals are bound to.
    pub fn digest(&self) -> [u8; 32] {
        Bound {
            operation: &self.operation,
            user: &self.user.resource_name(),
            device: &self.device.resource_name(),
            glass: self.glass,
            message: &self.message,
        }
        .sha256()
    }
}

/// A request that waits for others, or did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// What is asked for.
    pub request: ApprovalRequest,
    /// When.
    pub created: Timestamp,
    /// Who approved.
    pub votes: Vec<Vote>,
    /// What ended it before its time.
    pub ending: Option<Ending>,
}

/// One person's approval.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vote {
    /// Whose.
    pub user: UserId,
    /// Given on this device.
    pub device: DeviceId,
    /// When.
    pub time: Timestamp,
    /// Whether it counts now.
    pub weight: Weight,
}

/// Whether an approval counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weight {
    /// It does.
    Counts,
    /// The approver was disabled or is no admin any more, or the device was stopped.
    Void,
}

/// What ended an approval before its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Somebody denied it.
    Denied {
        /// Who.
        by: UserId,
        /// Why.
        reason: String,
    },
    /// The attempt with this record used it.
    Used {
        /// The record's number.
        sequence: u64,
    },
    /// Who asked took it back.
    Withdrawn,
}

/// Where an approval is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApprovalState {
    /// Too few have approved.
    Pending,
    /// The request may be made, once.
    Approved,
    /// Somebody denied it.
    Denied,
    /// The request was made.
    Used,
    /// Its time is over.
    Expired,
    /// Who asked took it back.
    Withdrawn,
}

impl Approval {
    /// How many approvals count now.
    pub fn given(&self) -> u32 {
        let count = self.votes.iter().filter(|vote| vote.weight == Weight::Counts).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Where it is at `now`.
    pub fn state(&self, now: Timestamp) -> ApprovalState {
        match &self.ending {
            Some(Ending::Denied { .. }) => ApprovalState::Denied,
            Some(Ending::Used { .. }) => ApprovalState::Used,
            Some(Ending::Withdrawn) => ApprovalState::Withdrawn,
            None if now >= self.request.expires => ApprovalState::Expired,
            None if self.given() >= self.request.needed.get() => ApprovalState::Approved,
            None => ApprovalState::Pending,
        }
    }
}

/// The approval that a permit was given on. The settling transaction uses it up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApprovalUse {
    /// Which.
    pub id: ApprovalId,
    /// It must be bound to this.
    pub digest: [u8; 32],
    /// At least so many approvals must count.
    pub needed: NonZeroU32,
}

/// An approval that a refused request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Which.
    pub id: ApprovalId,
    /// How many others must approve.
    pub needed: NonZeroU32,
    /// How many have.
    pub given: u32,
}

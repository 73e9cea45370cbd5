//! `[budgets]`.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{friendly, positive};
use crate::authority::{Amounts, Budget, Budgets, Guesses};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawBudgets {
    pub(crate) bad_files_per_hour: u32,
    #[serde(serialize_with = "friendly")]
    pub(crate) lock: SignedDuration,
    pub(crate) user: RawBudget,
    pub(crate) device: RawBudget,
    pub(crate) key: RawBudget,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawBudget {
    pub(crate) files_per_hour: Option<u32>,
    pub(crate) files_per_day: Option<u32>,
    pub(crate) unwraps_per_hour: Option<u32>,
    pub(crate) unwraps_per_day: Option<u32>,
}

impl Default for RawBudgets {
    fn default() -> Self {
        Self {
            bad_files_per_hour: 20,
            lock: SignedDuration::from_mins(15),
            user: RawBudget::with_files(500, 2_000),
            device: RawBudget::with_files(1_000, 4_000),
            key: RawBudget::with_files(10_000, 40_000),
        }
    }
}

impl RawBudget {
    /// Each file may be opened twice.
    fn with_files(files_per_hour: u32, files_per_day: u32) -> Self {
        Self {
            files_per_hour: Some(files_per_hour),
            files_per_day: Some(files_per_day),
            unwraps_per_hour: Some(2 * files_per_hour),
            unwraps_per_day: Some(2 * files_per_day),
        }
    }

    /// `usual` says what is not given.
    fn check(self, of: &str, usual: Self) -> Result<Budget, String> {
        let limit = |name: &str, given: Option<u32>, usual: Option<u32>| match given.or(usual) {
            Some(limit) if limit > 0 => Ok(limit),
            _ => Err(format!("budgets.{of}.{name}: must be at least 1")),
        };
        Ok(Budget {
            hour: Amounts {
                files: limit("files_per_hour", self.files_per_hour, usual.files_per_hour)?,
                unwraps: limit("unwraps_per_hour", self.unwraps_per_hour, usual.unwraps_per_hour)?,
            },
            day: Amounts {
                files: limit("files_per_day", self.files_per_day, usual.files_per_day)?,
                unwraps: limit("unwraps_per_day", self.unwraps_per_day, usual.unwraps_per_day)?,
            },
        })
    }
}

impl RawBudgets {
    pub(super) fn check(self) -> Result<Budgets, String> {
        if self.bad_files_per_hour == 0 {
            return Err("budgets.bad_files_per_hour: must be at least 1".into());
        }
        positive("budgets.lock", self.lock)?;
        let usual = Self::default();
        Ok(Budgets {
            user: self.user.check("user", usual.user)?,
            device: self.device.check("device", usual.device)?,
            key: self.key.check("key", usual.key)?,
            guesses: Guesses { per_hour: self.bad_files_per_hour, lock: self.lock },
        })
    }
}

//! `custodianctl budget`.

use clap::Subcommand;
use custodian_proto::v1;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    connection::Connection,
    extract::reason,
    output::{Style, table},
    view::{device_name, user_name},
    when::{local, parse_future, rfc3339, to_proto},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
};

#[derive(Debug, Subcommand)]
pub(super) enum BudgetCommand {
    /// List who spent something today, who has more, and who is locked
    Ls {
        #[command(flatten)]
        style: Style,
    },
    /// Show what a user, a device or a key spent, and may spend
    Show {
        /// users/anna, devices/laptop-7 or keys/KEY_ID
        spender: String,
        #[command(flatten)]
        style: Style,
    },
    /// Give a user, a device or a key more than the budget: counted, and for a time
    Lift {
        /// users/anna, devices/laptop-7 or keys/KEY_ID
        spender: String,
        /// So many unwraps beyond the budget, in the place of what is left of an earlier lift; 0 takes that back
        #[arg(long, value_name = "N")]
        more: u32,
        /// Until when: RFC 3339, a local date, or how long from now: 8h
        #[arg(long, value_name = "TIME", value_parser = parse_future)]
        until: Option<Timestamp>,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// End the lock of a user on a device, from where too much came that did not unwrap
    Unlock {
        /// anna or users/anna
        #[arg(long)]
        user: String,
        /// laptop-7 or devices/laptop-7
        #[arg(long)]
        device: String,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
    },
}

impl BudgetCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Ls { style } => {
                let spent = connection.connect(interrupt)?.spent()?;
                let view = SpentView {
                    budgets: spent.budgets.iter().map(BudgetView::from).collect(),
                    locks: spent.locks.iter().map(LockView::from).collect(),
                };
                style.text(&view, &view.text())
            }
            Self::Show { spender, style } => tell(style, &connection.connect(interrupt)?.budget(&spender)?),
            Self::Lift { spender, more, until, reason, style } => {
                if more > 0 && until.is_none() {
                    let what = format!("cannot lift the budget of {spender}");
                    return Err(Error::new(Kind::Usage, what, "it does not say until when")
                        .hint("give a time: --until 8h"));
                }
                let expire_time = until.map(to_proto);
                let request = v1::LiftBudgetRequest { spender, count: more, expire_time, reason };
                tell(style, &connection.connect(interrupt)?.lift_budget(&request)?)
            }
            Self::Unlock { user, device, reason } => connection.connect(interrupt)?.unlock_unwrap(
                &user_name(&user),
                &device_name(&device),
                &reason,
            ),
        }
    }
}

fn tell(style: Style, budget: &v1::Budget) -> Result<()> {
    let view = BudgetView::from(budget);
    let of = |spending: &SpendingView| {
        format!(
            "{} of {} files, {} of {} unwraps",
            spending.files, spending.files_limit, spending.unwraps, spending.unwraps_limit
        )
    };
    let lift = view.lift.as_ref();
    style.one(
        &view,
        &[
            ("budget of", view.spender.clone()),
            ("this hour", of(&view.hour)),
            ("this day", of(&view.day)),
            ("lift", lift.map(LiftView::text).unwrap_or_default()),
            ("lifted by", lift.map(|lift| lift.lifted_by.clone()).unwrap_or_default()),
            ("reason", lift.map(|lift| lift.reason.clone()).unwrap_or_default()),
        ],
    )
}

/// Everything that is spent.
#[derive(Serialize)]
struct SpentView {
    budgets: Vec<BudgetView>,
    locks: Vec<LockView>,
}

impl SpentView {
    fn text(&self) -> String {
        let part = |spent: u32, limit: u32| format!("{spent} of {limit}");
        let row = |budget: &BudgetView| {
            vec![
                budget.spender.clone(),
                part(budget.hour.files, budget.hour.files_limit),
                part(budget.hour.unwraps, budget.hour.unwraps_limit),
                part(budget.day.files, budget.day.files_limit),
                part(budget.day.unwraps, budget.day.unwraps_limit),
                budget.lift.as_ref().map(LiftView::text).unwrap_or_default(),
            ]
        };
        let header = ["BUDGET OF", "FILES/HOUR", "UNWRAPS/HOUR", "FILES/DAY", "UNWRAPS/DAY", "LIFT"];
        let mut text = table(&header, &self.budgets.iter().map(row).collect::<Vec<_>>());
        if !self.locks.is_empty() {
            let row =
                |lock: &LockView| vec![lock.user.clone(), lock.device.clone(), lock.expire_local.clone()];
            let rows: Vec<_> = self.locks.iter().map(row).collect();
            text.push('\n');
            text.push_str(&table(&["LOCKED", "ON", "UNTIL"], &rows));
        }
        text
    }
}

/// What one of them spent.
#[derive(Serialize)]
struct BudgetView {
    spender: String,
    hour: SpendingView,
    day: SpendingView,
    lift: Option<LiftView>,
}

/// Spent and allowed within one window.
#[derive(Default, Serialize)]
struct SpendingView {
    files: u32,
    files_limit: u32,
    unwraps: u32,
    unwraps_limit: u32,
    end_time: Option<String>,
}

/// More than the budget.
#[derive(Serialize)]
struct LiftView {
    count: u32,
    left: u32,
    expire_time: Option<String>,
    #[serde(skip)]
    expire_local: String,
    reason: String,
    lifted_by: String,
}

impl LiftView {
    fn text(&self) -> String {
        format!("{} of {} left, until {}", self.left, self.count, self.expire_local)
    }
}

/// A user who is locked on a device.
#[derive(Serialize)]
struct LockView {
    user: String,
    device: String,
    expire_time: Option<String>,
    #[serde(skip)]
    expire_local: String,
}

impl From<&v1::Budget> for BudgetView {
    fn from(budget: &v1::Budget) -> Self {
        let spending = |spending: Option<&v1::Spending>| spending.map(SpendingView::from).unwrap_or_default();
        Self {
            spender: budget.spender.clone(),
            hour: spending(budget.hour.as_ref()),
            day: spending(budget.day.as_ref()),
            lift: budget.lift.as_ref().map(LiftView::from),
        }
    }
}

impl From<&v1::Spending> for SpendingView {
    fn from(spending: &v1::Spending) -> Self {
        Self {
            files: spending.files,
            files_limit: spending.files_limit,
            unwraps: spending.unwraps,
            unwraps_limit: spending.unwraps_limit,
            end_time: rfc3339(spending.end_time.as_ref()),
        }
    }
}

impl From<&v1::Lift> for LiftView {
    fn from(lift: &v1::Lift) -> Self {
        Self {
            count: lift.count,
            left: lift.left,
            expire_time: rfc3339(lift.expire_time.as_ref()),
            expire_local: local(lift.expire_time.as_ref()),
            reason: lift.reason.clone(),
            lifted_by: lift.lifted_by.clone(),
        }
    }
}

impl From<&v1::UnwrapLock> for LockView {
    fn from(lock: &v1::UnwrapLock) -> Self {
        Self {
            user: lock.user.clone(),
            device: lock.device.clone(),
            expire_time: rfc3339(lock.expire_time.as_ref()),
            expire_local: local(lock.expire_time.as_ref()),
        }
    }
}

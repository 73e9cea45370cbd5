//! Budgets: what was spent, and more of it.

use std::collections::BTreeMap;

use custodian_proto::{
    key::KeyId,
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, budget_service_client::BudgetServiceClient},
};

use super::{Remote, session::Signed};
use crate::error::Result;

/// What everybody spent today, and who is locked.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// Those who spent something or have a lift.
    pub budgets: Vec<v1::Budget>,
    /// Locks that hold now.
    pub locks: Vec<v1::UnwrapLock>,
}

/// All of these fail as any call does: refused, unreachable, interrupted. Spenders are resource names.
impl Remote {
    /// What everybody spent today.
    ///
    /// # Errors
    /// Those of any call.
    pub fn spent(&self) -> Result<Spent> {
        let mut spent = Spent::default();
        let mut page_token = String::new();
        loop {
            let request = v1::ListBudgetsRequest { page_size: MAX_PAGE_SIZE, page_token };
            let page = self.call("cannot list budgets", async |service| {
                client(service).list_budgets(request.clone()).await
            })?;
            spent.budgets.extend(page.budgets);
            spent.locks.extend(page.locks);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(spent);
            }
        }
    }

    /// What this one spent.
    ///
    /// # Errors
    /// Those of any call.
    pub fn budget(&self, spender: &str) -> Result<v1::Budget> {
        let request = v1::GetBudgetRequest { spender: spender.to_owned() };
        let what = format!("cannot show the budget of {spender}");
        Ok(self.call(&what, async |service| client(service).get_budget(request.clone()).await)?)
    }

    /// Gives somebody more than the budget.
    ///
    /// # Errors
    /// Those of any call.
    pub fn lift_budget(&self, request: &v1::LiftBudgetRequest) -> Result<v1::Budget> {
        let what = format!("cannot lift the budget of {}", request.spender);
        Ok(self.call(&what, async |service| client(service).lift_budget(request.clone()).await)?)
    }

    /// Ends the lock of a user on a device.
    ///
    /// # Errors
    /// Those of any call.
    pub fn unlock_unwrap(&self, user: &str, device: &str, reason: &str) -> Result<()> {
        let what = format!("cannot unlock {user} on {device}");
        let (user, device, reason) = (user.to_owned(), device.to_owned(), reason.to_owned());
        let request = v1::UnlockUnwrapRequest { user, device, reason };
        self.call(&what, async |service| client(service).unlock_unwrap(request.clone()).await)?;
        Ok(())
    }

    /// Asks whether all these files fit into the budgets now: for each key, the SHA-256 of wrapped keys.
    ///
    /// # Errors
    /// They do not fit; and those of any call.
    pub fn check_budget(&self, what: &str, files: &BTreeMap<KeyId, Vec<[u8; 32]>>) -> Result<()> {
        let keys = files.iter().map(|(key, files)| v1::KeyFiles {
            key: key.resource_name(),
            wrapped_key_sha256s: files.as_flattened().to_vec(),
        });
        let request = v1::CheckBudgetRequest { keys: keys.collect() };
        self.call(what, async |service| client(service).check_budget(request.clone()).await)?;
        Ok(())
    }
}

fn client(service: Signed) -> BudgetServiceClient<Signed> {
    BudgetServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}

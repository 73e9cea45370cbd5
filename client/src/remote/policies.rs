//! The organisation's policy.

use custodian_proto::{
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, policy_service_client::PolicyServiceClient},
};

use super::{Remote, session::Signed};
use crate::error::Result;

/// All of these fail as any call does: refused, unreachable, interrupted.
impl Remote {
    /// The policy in force, and what policies can speak about.
    ///
    /// # Errors
    /// Those of any call.
    pub fn policy(&self) -> Result<v1::GetPolicyResponse> {
        Ok(self.call("cannot read the policy", async |service| {
            client(service).get_policy(v1::GetPolicyRequest {}).await
        })?)
    }

    /// All versions that were applied, newest first, without their texts.
    ///
    /// # Errors
    /// Those of any call.
    pub fn policies(&self) -> Result<Vec<v1::Policy>> {
        let mut policies = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListPoliciesRequest { page_size: MAX_PAGE_SIZE, page_token };
            let page = self.call("cannot list policies", async |service| {
                client(service).list_policies(request.clone()).await
            })?;
            policies.extend(page.policies);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(policies);
            }
        }
    }

    /// Puts a policy in force, in the place of version `base_version`.
    ///
    /// # Errors
    /// Those of any call.
    pub fn apply_policy(&self, text: &str, base_version: u64, reason: &str) -> Result<v1::Policy> {
        let (text, reason) = (text.to_owned(), reason.to_owned());
        let request = v1::ApplyPolicyRequest { text, base_version, reason };
        Ok(self.call("cannot apply the policy", async |service| {
            client(service).apply_policy(request.clone()).await
        })?)
    }

    /// Tells where a policy would have decided otherwise in the last days.
    ///
    /// # Errors
    /// Those of any call.
    pub fn test_policy(&self, text: &str, days: u32) -> Result<v1::TestPolicyResponse> {
        let request = v1::TestPolicyRequest { text: text.to_owned(), days };
        Ok(self.call("cannot test the policy", async |service| {
            client(service).test_policy(request.clone()).await
        })?)
    }

    /// What would be missing without a user or a device, by the attempts of so many days.
    ///
    /// # Errors
    /// Those of any call.
    pub fn explain_without(&self, name: &str, days: u32) -> Result<v1::ExplainWithoutResponse> {
        let request = v1::ExplainWithoutRequest { name: name.to_owned(), days };
        let what = format!("cannot tell what would be missing without {name}");
        Ok(self.call(&what, async |service| client(service).explain_without(request.clone()).await)?)
    }

    /// Decides one question and says which policies made the difference.
    ///
    /// # Errors
    /// Those of any call.
    pub fn explain_policy(&self, request: &v1::ExplainPolicyRequest) -> Result<v1::ExplainPolicyResponse> {
        Ok(self.call("cannot explain the policy", async |service| {
            client(service).explain_policy(request.clone()).await
        })?)
    }
}

fn client(service: Signed) -> PolicyServiceClient<Signed> {
    PolicyServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}

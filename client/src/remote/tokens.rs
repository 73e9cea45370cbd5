//! The tokens that hold the keys.

use custodian_proto::{
    limits::MAX_PAGE_LEN,
    v1::{self, token_service_client::TokenServiceClient},
};

use super::{Remote, session::Signed};
use crate::error::Result;

/// What to do with a token if no other serves a key of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IfLast {
    /// Leave it in service.
    Refuse,
    /// Drain it: the key is of no use then.
    DrainAllTheSame,
}

/// All of these fail as any call does: refused, unreachable, interrupted. Names are `tokens/NAME`.
impl Remote {
    /// All tokens, in the order of the configuration.
    ///
    /// # Errors
    /// Those of any call.
    pub fn tokens(&self) -> Result<Vec<v1::Token>> {
        let listed = self.call("cannot list tokens", async |service| {
            client(service).list_tokens(v1::ListTokensRequest {}).await
        })?;
        Ok(listed.tokens)
    }

    /// Takes a token out of service. Waits some seconds for what is under way on it.
    ///
    /// # Errors
    /// Those of any call.
    pub fn drain_token(&self, name: &str, reason: &str, if_last: IfLast) -> Result<v1::Token> {
        let even_if_last = if_last == IfLast::DrainAllTheSame;
        let request =
            v1::DrainTokenRequest { name: name.to_owned(), reason: reason.to_owned(), even_if_last };
        let what = format!("cannot drain {name}");
        Ok(self.call(&what, async |service| client(service).drain_token(request.clone()).await)?)
    }

    /// Puts a token into service again.
    ///
    /// # Errors
    /// Those of any call.
    pub fn resume_token(&self, name: &str) -> Result<v1::Token> {
        let request = v1::ResumeTokenRequest { name: name.to_owned() };
        let what = format!("cannot resume {name}");
        Ok(self.call(&what, async |service| client(service).resume_token(request.clone()).await)?)
    }
}

fn client(service: Signed) -> TokenServiceClient<Signed> {
    TokenServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}

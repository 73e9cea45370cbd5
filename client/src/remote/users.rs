//! The people who may sign in.

use custodian_proto::{
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    secret::Secret,
    v1::{self, user_service_client::UserServiceClient},
};
use jiff::Timestamp;

use super::{Remote, session::Signed};
use crate::error::Result;

/// What becomes of a password that somebody else sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Given {
    /// Whatever the custodian is configured to ask for.
    AsConfigured,
    /// The user must set another before anything else.
    MustChange,
}

/// All of these fail as any call does: refused, unreachable, interrupted. Names are `users/ID`.
impl Remote {
    /// Adds a user.
    ///
    /// # Errors
    /// Those of any call; a password that is easy to guess.
    pub fn create_user(
        &self,
        id: &str,
        password: &Secret,
        given: Given,
        roles: &[v1::Role],
    ) -> Result<v1::User> {
        let what = format!("cannot add users/{id}");
        let roles: Vec<i32> = roles.iter().map(|role| i32::from(*role)).collect();
        Ok(self.call(&what, async |service| {
            let (user_id, password) = (id.to_owned(), password.expose().to_owned());
            let must_change_password = given == Given::MustChange;
            let roles = roles.clone();
            client(service)
                .create_user(v1::CreateUserRequest { user_id, password, roles, must_change_password })
                .await
        })?)
    }

    /// All users, in the order of their ids.
    ///
    /// # Errors
    /// Those of any call.
    pub fn users(&self) -> Result<Vec<v1::User>> {
        let mut users = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListUsersRequest { page_size: MAX_PAGE_SIZE, page_token };
            let page = self.call("cannot list users", async |service| {
                client(service).list_users(request.clone()).await
            })?;
            users.extend(page.users);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(users);
            }
        }
    }

    /// Stops a user, until a time if one is given. Once this returns, no key leaves for them.
    ///
    /// # Errors
    /// Those of any call.
    pub fn disable_user(&self, name: &str, reason: &str, until: Option<Timestamp>) -> Result<v1::User> {
        let end_time = until.map(|time| prost_types::Timestamp {
            seconds: time.as_second(),
            nanos: time.subsec_nanosecond(),
        });
        let request = v1::DisableUserRequest { name: name.to_owned(), reason: reason.to_owned(), end_time };
        let what = format!("cannot disable {name}");
        Ok(self.call(&what, async |service| client(service).disable_user(request.clone()).await)?)
    }

    /// Lets a disabled user sign in again.
    ///
    /// # Errors
    /// Those of any call.
    pub fn enable_user(&self, name: &str) -> Result<v1::User> {
        let request = v1::EnableUserRequest { name: name.to_owned() };
        let what = format!("cannot enable {name}");
        Ok(self.call(&what, async |service| client(service).enable_user(request.clone()).await)?)
    }

    /// Sets a password. `old` is needed for one's own.
    ///
    /// # Errors
    /// Those of any call; a password that is easy to guess, or the old one.
    pub fn set_password(
        &self,
        name: &str,
        old: Option<&Secret>,
        new: &Secret,
        given: Given,
    ) -> Result<v1::User> {
        let what = format!("cannot set the password of {name}");
        Ok(self.call(&what, async |service| {
            let request = v1::SetPasswordRequest {
                name: name.to_owned(),
                old_password: old.map(|old| old.expose().to_owned()).unwrap_or_default(),
                new_password: new.expose().to_owned(),
                must_change_password: given == Given::MustChange,
            };
            client(service).set_password(request).await
        })?)
    }

    /// Replaces the groups that a user is in.
    ///
    /// # Errors
    /// Those of any call.
    pub fn set_user_groups(&self, name: &str, groups: &[String]) -> Result<v1::User> {
        let request = v1::SetUserGroupsRequest { name: name.to_owned(), groups: groups.to_vec() };
        let what = format!("cannot set the groups of {name}");
        Ok(self.call(&what, async |service| client(service).set_user_groups(request.clone()).await)?)
    }

    /// Replaces a user's roles.
    ///
    /// # Errors
    /// Those of any call.
    pub fn set_roles(&self, name: &str, roles: &[v1::Role]) -> Result<v1::User> {
        let roles = roles.iter().map(|role| i32::from(*role)).collect();
        let request = v1::SetRolesRequest { name: name.to_owned(), roles };
        let what = format!("cannot set the roles of {name}");
        Ok(self.call(&what, async |service| client(service).set_roles(request.clone()).await)?)
    }
}

fn client(service: Signed) -> UserServiceClient<Signed> {
    UserServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}

//! `UserService`.

use custodian_proto::{
    refusal::Refusal,
    secret::Secret,
    v1::{self, user_service_server::UserService},
};
use jiff::Timestamp;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid},
    resource::{from_timestamp, groups, page, page_size, page_start, reason, roles, rows_for, user_id},
};
use crate::{
    authority::{FactorState, Groups, Need, PasswordState, Role, User, UserId},
    custody::{Denial, Fault},
    ledger::{Change, Changed, Intent},
};

#[tonic::async_trait]
impl UserService for Api {
    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> Result<Response<v1::User>, Status> {
        let accepted = self.accept_as(&request, without_password).await?;
        let v1::CreateUserRequest { user_id, password, roles: asked, must_change_password } =
            request.into_inner();
        let (password, password_state) = (Secret::new(password), self.given_password(must_change_password));
        let parsed = user_id
            .parse::<UserId>()
            .map_err(|error| invalid(format!("user_id: {error}")))
            .and_then(|id| Ok((id, roles(&asked)?)));
        let (id, roles) = self.parsed(&accepted, "CreateUser", parsed).await?;
        let intent = Intent { target: id.resource_name(), ..accepted.call.intent("CreateUser") };
        let api = self.clone();
        let create = async move {
            let password = api.passwords.hash(password, &id).await?;
            let now = Timestamp::now();
            Ok(Change::CreateUser(User {
                id,
                roles,
                disabled: false,
                disabled_until: None,
                password,
                password_state,
                factor: FactorState::default(),
                groups: Groups::default(),
                created: now,
                updated: now,
            }))
        };
        self.change_user(&accepted, Need::Role(Role::Admin), intent, create).await
    }

    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ListUsers").await?;
        let request = request.into_inner();
        let after = page_start(&request.page_token).map_err(|denial| accepted.status(denial))?;
        let size = page_size(request.page_size);
        let users = self.custodian.ledger().users(after, rows_for(size)).await;
        let users = users.map_err(|error| accepted.status(error.into()))?;
        let (users, next_page_token) = page(users, size, |user| user.id.to_string());
        Ok(Response::new(v1::ListUsersResponse {
            users: users.into_iter().map(v1::User::from).collect(),
            next_page_token,
        }))
    }

    async fn disable_user(
        &self,
        request: Request<v1::DisableUserRequest>,
    ) -> Result<Response<v1::User>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let v1::DisableUserRequest { name, reason: why, end_time } = request.into_inner();
        let until = || end_time.map(|time| from_timestamp(time, "end_time")).transpose();
        let parsed = user_id(&name).and_then(|id| Ok((id, reason(why)?, until()?)));
        let (id, reason, until) = self.parsed(&accepted, "DisableUser", parsed).await?;
        let intent = Intent { target: id.resource_name(), reason, ..accepted.call.intent("DisableUser") };
        let disable = async move {
            Ok(match until {
                Some(until) => Change::SuspendUser { id, until },
                None => Change::SetUserDisabled { id, disabled: true },
            })
        };
        self.change_user(&accepted, Need::Role(Role::Admin), intent, disable).await
    }

    async fn enable_user(
        &self,
        request: Request<v1::EnableUserRequest>,
    ) -> Result<Response<v1::User>, Status> {
        let accepted = self.accept(&request).await?;
        let id = self.parsed(&accepted, "EnableUser", user_id(&request.into_inner().name)).await?;
        let intent = Intent { target: id.resource_name(), ..accepted.call.intent("EnableUser") };
        let enable = async move { Ok(Change::SetUserDisabled { id, disabled: false }) };
        self.change_user(&accepted, Need::Role(Role::Admin), intent, enable).await
    }

    async fn set_password(
        &self,
        request: Request<v1::SetPasswordRequest>,
    ) -> Result<Response<v1::User>, Status> {
        let without = |asked: &v1::SetPasswordRequest| {
            let (name, must_change_password) = (asked.name.clone(), asked.must_change_password);
            v1::SetPasswordRequest { name, must_change_password, ..Default::default() }.encode_to_vec()
        };
        let accepted = self.accept_as(&request, without).await?;
        let v1::SetPasswordRequest { name, old_password, new_password, must_change_password } =
            request.into_inner();
        let (old, new) = (Secret::new(old_password), Secret::new(new_password));
        let id = self.parsed(&accepted, "SetPassword", user_id(&name)).await?;
        let intent = Intent { target: id.resource_name(), ..accepted.call.intent("SetPassword") };
        let caller = &accepted.call.caller;
        let own = caller.user.as_ref().filter(|user| user.id == id).cloned();
        let (need, state) = match own {
            Some(_) => (Need::Unfinished, PasswordState::Settled),
            None => (Need::Role(Role::Admin), self.given_password(must_change_password)),
        };
        let keep = caller.session.as_ref().filter(|_| own.is_some()).map(|session| session.id);
        let device = caller.device_id();
        let api = self.clone();
        let change = async move {
            if let Some(user) = own {
                // A stolen session must not be a way to guess the password faster than at the front door.
                api.throttle.check(user.id.as_str(), &device?)?;
                let is_old = old.expose() == new.expose();
                if !api.passwords.verify(Some(&user), old).await? {
                    return Err(Refusal::LoginFailed.into());
                }
                if is_old {
                    return Err(invalid("new_password: is the present one"));
                }
            }
            let password = api.passwords.hash(new, &id).await?;
            Ok(Change::SetPassword { id, password, state, keep })
        };
        self.change_user(&accepted, need, intent, change).await
    }

    async fn set_user_groups(
        &self,
        request: Request<v1::SetUserGroupsRequest>,
    ) -> Result<Response<v1::User>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::SetUserGroupsRequest { name, groups: asked } = request.into_inner();
        let parsed = user_id(&name).and_then(|id| Ok((id, groups(&asked)?)));
        let (id, groups) = self.parsed(&accepted, "SetUserGroups", parsed).await?;
        let intent = Intent { target: id.resource_name(), ..accepted.call.intent("SetUserGroups") };
        let set = async move { Ok(Change::SetUserGroups { id, groups }) };
        self.change_user(&accepted, Need::Role(Role::Admin), intent, set).await
    }

    async fn set_roles(&self, request: Request<v1::SetRolesRequest>) -> Result<Response<v1::User>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::SetRolesRequest { name, roles: asked } = request.into_inner();
        let parsed = user_id(&name).and_then(|id| Ok((id, roles(&asked)?)));
        let (id, roles) = self.parsed(&accepted, "SetRoles", parsed).await?;
        let intent = Intent { target: id.resource_name(), ..accepted.call.intent("SetRoles") };
        let set = async move { Ok(Change::SetRoles { id, roles }) };
        self.change_user(&accepted, Need::Role(Role::Admin), intent, set).await
    }
}

impl Api {
    /// What becomes of a password that an administrator sets.
    fn given_password(&self, must_change: bool) -> PasswordState {
        if must_change {
            PasswordState::MustChange
        } else {
            self.custodian.authority().rules().given_passwords
        }
    }

    pub(super) async fn change_user(
        &self,
        accepted: &Accepted,
        need: Need<'static>,
        intent: Intent,
        prepare: impl Future<Output = Result<Change, Denial>> + Send + 'static,
    ) -> Result<Response<v1::User>, Status> {
        let prepare = async move { Ok((prepare.await?, ())) };
        match self.custodian.change(accepted.call.clone(), need, intent, prepare).await {
            Ok((Changed::User(user), ())) => Ok(Response::new(user.into())),
            Ok(_) => Err(accepted.status(Fault::Internal("a user's change left no user".into()).into())),
            Err(denial) => Err(accepted.status(denial)),
        }
    }
}

/// What approvals of a new user are bound to.
fn without_password(asked: &v1::CreateUserRequest) -> Vec<u8> {
    let v1::CreateUserRequest { user_id, password: _, roles, must_change_password } = asked;
    let (user_id, roles, must_change_password) = (user_id.clone(), roles.clone(), *must_change_password);
    v1::CreateUserRequest { user_id, password: String::new(), roles, must_change_password }.encode_to_vec()
}

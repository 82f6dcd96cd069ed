//! Routes about users (`spec/http-api.md` §4).

use axum::extract::State;

use super::{Answer, Api, Raw, ok};
use crate::dto::{DeviceQuit, OnlineStatus, Status, UpdateToken, decode};
use crate::error::Problem;
use crate::users;

/// Registers or refreshes the token of a user's device class. 19 and 24 refuse.
#[utoipa::path(post, path = "/user/token", tag = "user", request_body = UpdateToken,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn token(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&users::set_token(&*api.backend, decode(&body)?).await?)
}

/// Clears tokens and disconnects the devices.
#[utoipa::path(post, path = "/user/device_quit", tag = "user", request_body = DeviceQuit,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn device_quit(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&users::quit(&*api.backend, decode(&body)?).await?)
}

/// Live connections of users; users without one are absent.
#[utoipa::path(post, path = "/user/onlinestatus", tag = "user", request_body = Vec<String>,
    responses((status = 200, body = Vec<OnlineStatus>), (status = 400, body = Problem)))]
pub(super) async fn onlinestatus(State(api): State<Api>, Raw(body): Raw) -> Answer {
    let uids: Vec<String> = decode(&body)?;
    if uids.is_empty() {
        // COMPAT: nobody asked for is answered with an object.
        return ok(&Status::OK);
    }
    ok(&users::online(&*api.backend, uids).await?)
}

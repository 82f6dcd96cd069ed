//! Decisions about users: tokens, devices, presence.

use wk_proto::worker::v1 as pb;
use wk_types::SYSTEM_UID;
use wk_types::channel::has_special_chars;

use crate::backend::{Backend, BackendError};
use crate::dto::{DeviceQuit, OnlineStatus, Status, UpdateToken};
use crate::error::ApiError;

/// Text for a failure inside the node that has no text of its own.
pub(crate) const INTERNAL: &str = "IM服务失败！";

/// Logs what failed and gives the caller a text without inner detail.
pub(crate) fn internal(text: &'static str, err: &BackendError) -> ApiError {
    let cause = std::error::Error::source(err).map(ToString::to_string);
    tracing::warn!(%err, cause, "request failed");
    ApiError::text(text)
}

/// `POST /user/token`: the owner of the uid stores it and kicks older devices.
///
/// # Errors
/// [`ApiError`] for an illegal request or when the owner is out of reach.
pub async fn set_token(backend: &dyn Backend, request: UpdateToken) -> Result<Status, ApiError> {
    check_token(&request)?;
    let request = pb::SetTokenRequest {
        uid: request.uid,
        token: request.token,
        device_flag: request.device_flag.into(),
        device_level: request.device_level.into(),
    };
    let status = backend.set_token(request).await.map_err(|err| internal(INTERNAL, &err))?;
    Ok(Status { status })
}

fn check_token(request: &UpdateToken) -> Result<(), ApiError> {
    let refuse = |text| Err(ApiError::text(text));
    if request.uid.trim().is_empty() {
        return refuse("uid不能为空！");
    }
    if has_special_chars(&request.uid) {
        return refuse("uid不能包含特殊字符！");
    }
    if request.token.trim().is_empty() {
        return refuse("token不能为空！");
    }
    if request.uid == SYSTEM_UID {
        return refuse("系统账号不允许更新token！");
    }
    Ok(())
}

/// `POST /user/device_quit`.
///
/// # Errors
/// None: COMPAT, the original answers 200 whatever happened; failures are logged.
pub async fn quit(backend: &dyn Backend, request: DeviceQuit) -> Result<Status, ApiError> {
    // COMPAT: the original cuts the flag to a byte.
    let device_flag = if request.device_flag == -1 { -1 } else { i32::from(request.device_flag.to_le_bytes()[0]) };
    if let Err(err) = backend.quit(pb::QuitRequest { uid: request.uid, device_flag }).await {
        internal(INTERNAL, &err);
    }
    Ok(Status::OK)
}

/// `POST /user/onlinestatus`: one entry per live connection, users in the order they were asked for.
///
/// # Errors
/// [`ApiError`] when an owner is out of reach or its presence is not complete.
pub async fn online(backend: &dyn Backend, uids: Vec<String>) -> Result<Vec<OnlineStatus>, ApiError> {
    let order: std::collections::HashMap<String, usize> = uids.iter().cloned().rev().zip((0..uids.len()).rev()).collect();
    let mut conns = backend.online(uids).await.map_err(|err| internal("获取在线状态失败！", &err))?;
    conns.sort_by_key(|conn| order.get(&conn.uid).copied());
    Ok(conns.into_iter().map(|conn| OnlineStatus { uid: conn.uid, device_flag: conn.device_flag, online: 1 }).collect())
}

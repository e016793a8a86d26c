//! Bodies of requests: within their limits, and said clearly what is wrong with them.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::limits::Limits;
use crate::problem::Problem;

/// Each so many bytes give a body a second more.
const BYTES_PER_SECOND: u64 = 128 << 10;

/// The value that a request carries; `None` if it carries nothing at all.
pub(crate) async fn read<T: DeserializeOwned>(
    request: Request,
    limits: &Limits,
) -> Result<Option<T>, Problem> {
    let is_json = is_json(request.headers());
    let content_type = text_of(request.headers(), header::CONTENT_TYPE);
    let bytes = bytes(request, limits).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json {
        let message = format!(
            "the body is {}; this wants `content-type: application/json`",
            content_type.map_or_else(|| "of no type".to_owned(), |text| format!("`{text}`"))
        );
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad-content-type", &message));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => {
            let message = format!("the body is no JSON: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "bad-json", &message)
        }
        Category::Data => {
            let message = format!("the body is not what this wants: {error}");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-body", &message)
        }
    })
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = text_of(headers, header::CONTENT_TYPE) else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn bytes(request: Request, limits: &Limits) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let message = format!("the body may have {} bytes at most", limits.body_bytes);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &message)
    };
    let announced = text_of(request.headers(), header::CONTENT_LENGTH);
    let announced = announced.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if usize::try_from(announced).is_ok_and(|announced| announced > limits.body_bytes) {
        return Err(too_large());
    }
    let time = limits.body_time + Duration::from_secs(announced / BYTES_PER_SECOND);
    let body = Limited::new(request.into_body(), limits.body_bytes).collect();
    match tokio::time::timeout(time, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let message = format!("the body broke off: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "broken-body", &message))
        }
        Err(_late) => {
            let message = format!("the body was not there within {time:?}");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", &message))
        }
    }
}

//! Who may do what.

use axum::http::{HeaderMap, StatusCode, header};
use hyperscale_model::ClientId;

use crate::problem::Problem;

/// What a token allows; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Look.
    View,
    /// Submit and cancel.
    Run,
    /// Everything.
    Admin,
}

/// A bearer token (RFC 6750).
#[derive(Clone)]
pub struct Token {
    /// Whose it is.
    pub client: ClientId,
    /// What it allows.
    pub access: Access,
    /// The token.
    pub secret: String,
}

/// The tokens that are known. Without any, whoever reaches the API may do everything.
#[derive(Clone, Default)]
pub struct Tokens(pub Vec<Token>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|token| &token.client)).finish()
    }
}

impl Tokens {
    pub(crate) fn check(&self, headers: &HeaderMap, needed: Access) -> Result<ClientId, Problem> {
        if self.0.is_empty() {
            return Ok(ClientId::from("anonymous"));
        }
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let Some(given) = given else {
            let message = "this gate wants a token: `Authorization: Bearer …`";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "no-token", message));
        };
        // Each is compared to its end, so that the time taken tells nothing of a token.
        let mut found = None;
        for token in &self.0 {
            if is_same(token.secret.as_bytes(), given.as_bytes()) {
                found = Some(token);
            }
        }
        match found {
            None => {
                Err(Problem::new(StatusCode::UNAUTHORIZED, "bad-token", "this token is not known"))
            }
            Some(token) if token.access < needed => {
                let message =
                    format!("the token of `{}` does not allow this", token.client.as_str());
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", &message))
            }
            Some(token) => Ok(token.client.clone()),
        }
    }
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(token: &str) -> HeaderMap {
        let value = format!("Bearer {token}").parse().unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn a_token_allows_what_it_says_and_no_more() {
        let token = |name: &str, access| Token {
            client: ClientId::from(name),
            access,
            secret: format!("{name}-secret"),
        };
        let tokens = Tokens(vec![token("eve", Access::View), token("ann", Access::Run)]);

        let status =
            |secret: &str, needed| tokens.check(&headers(secret), needed).map_err(|p| p.status);

        assert_eq!(status("eve-secret", Access::View), Ok(ClientId::from("eve")));
        assert_eq!(status("eve-secret", Access::Run), Err(403));
        assert_eq!(status("ann-secret", Access::Run), Ok(ClientId::from("ann")));
        assert_eq!(status("ann-secret", Access::Admin), Err(403));
        assert_eq!(status("ann-secre", Access::View), Err(401));
        assert_eq!(tokens.check(&HeaderMap::new(), Access::View).unwrap_err().status, 401);
        assert!(Tokens::default().check(&HeaderMap::new(), Access::Admin).is_ok());
    }
}

//! The Azure Arc agent asks back: it answers 401 and names a file that it has just written, and whoever can read that file
//! is served. The permission on the file is the whole authentication, and the name comes from whoever answers on a
//! loopback port; so the file is read only if it is one that the agent makes (see [`challenge`]).
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{METADATA, Managed, answer, challenge};
use crate::{
    http_client::Answer,
    token::{ErrorCode, Stage, TokenError, answer::Budget},
};

/// Where the agent keeps its keys.
pub(super) const KEYS: &str = "/var/opt/azcmagent/tokens";

impl Managed {
    /// Asks again with the content of the file that `first` names.
    pub(super) async fn answer_challenge(
        &self,
        audience: &str,
        first: &Answer,
        budget: Budget,
    ) -> Result<Answer, TokenError> {
        let asked = self.asked(audience);
        let refuse = |code, message: String| TokenError::new(code, format!("{asked}: {message}")).at(Stage::Challenge);
        match first.status {
            StatusCode::UNAUTHORIZED => {}
            // The agent never serves an unproven request: whoever does is somebody else.
            StatusCode::OK => {
                return Err(refuse(
                    ErrorCode::UpstreamShape,
                    "it answered without a challenge, as no Arc agent does".into(),
                ));
            }
            _ => return Err(answer::refusal(self.kind, &asked, first).at(Stage::Challenge)),
        }
        let path = challenge::path(&first.headers, &self.keys)
            .map_err(|why| refuse(ErrorCode::ChallengeUnsafe, format!("its challenge is not followed: {why}")))?;
        let key = challenge::read(&path).map_err(|problem| match problem {
            challenge::Problem::Unsafe(why) => {
                refuse(ErrorCode::ChallengeUnsafe, format!("{} is not read: it {why}", path.display()))
            }
            challenge::Problem::Unreadable(error) => refuse(
                ErrorCode::FileUnreadable,
                format!("{}: {error}; only root and the group himds may read it", path.display()),
            ),
        })?;
        let proof = key.header("Basic ").ok_or_else(|| {
            refuse(ErrorCode::ChallengeUnsafe, format!("{} holds what no header field may have", path.display()))
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(METADATA, HeaderValue::from_static("true"));
        headers.insert(header::AUTHORIZATION, proof);
        self.get(audience, headers, budget).await
    }
}

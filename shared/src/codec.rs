//! How the mesh's own messages become bytes: MessagePack maps with named fields, or JSON where the header
//! `Content-Type: application/json` says so.
//!
//! Unknown fields are ignored and missing ones have defaults, so that versions can be mixed.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An encoding of the mesh's own messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The default.
    #[default]
    MessagePack,
    /// For those who would rather read along.
    Json,
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is not MessagePack of the shape expected.
    #[error("not the MessagePack that was expected")]
    MessagePack(#[from] rmp_serde::decode::Error),
    /// It is not JSON of the shape expected.
    #[error("not the JSON that was expected")]
    Json(#[from] serde_json::Error),
    /// Its `Content-Type` names neither.
    #[error("`Content-Type: {0}` is neither application/msgpack nor application/json")]
    UnknownType(String),
}

impl Format {
    /// The media type that names it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::MessagePack => "application/msgpack",
            Format::Json => "application/json",
        }
    }

    /// The format that a `Content-Type` names; MessagePack where there is none.
    pub fn from_content_type(value: Option<&str>) -> Result<Self, DecodeError> {
        let Some(value) = value else { return Ok(Format::MessagePack) };
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Ok(Format::Json)
        } else if ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
            .iter()
            .any(|name| essence.eq_ignore_ascii_case(name))
        {
            Ok(Format::MessagePack)
        } else {
            Err(DecodeError::UnknownType(crate::names::excerpt(value)))
        }
    }

    /// The message as bytes.
    pub fn encode<T: Serialize>(self, message: &T) -> Bytes {
        match self {
            Format::MessagePack => rmp_serde::to_vec_named(message).expect("messages have only named fields").into(),
            Format::Json => serde_json::to_vec(message).expect("messages have only text keys").into(),
        }
    }

    /// Reads a message from bytes.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        match self {
            Format::MessagePack => Ok(rmp_serde::from_slice(bytes)?),
            Format::Json => Ok(serde_json::from_slice(bytes)?),
        }
    }
}

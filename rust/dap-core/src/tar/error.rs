//! Why an archive is refused.

use thiserror::Error;

/// Why an archive is refused, or a member of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TarError {
    /// A block that is no header.
    #[error("expected a tar header at byte {0}, its checksum is wrong: not an uncompressed tar file, or a damaged one")]
    Checksum(u64),
    /// A header whose size is no number.
    #[error("member {member:?}: its size is no number")]
    Number {
        /// The member.
        member: String,
    },
    /// Data that goes on beyond the end of the file.
    #[error("member {member:?} claims {size} bytes from byte {begin} on, but the file has {bytes}")]
    Truncated {
        /// The member.
        member: String,
        /// Bytes that it claims.
        size: u64,
        /// Where they begin.
        begin: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// No end-of-archive mark.
    #[error("the file ends at byte {0} without the end-of-archive mark: it is truncated")]
    End(u64),
    /// Bytes after the end-of-archive mark.
    #[error("the archive ends at byte {0}, but something follows")]
    Trailing(u64),
    /// A link, a device, or anything else that is neither file nor folder.
    #[error("member {member:?} is a {kind}, expected files and folders only")]
    Kind {
        /// The member.
        member: String,
        /// What it is.
        kind: &'static str,
    },
    /// A name that leads elsewhere or cannot be read.
    #[error("member {member:?}: its name {reason}")]
    Name {
        /// The member.
        member: String,
        /// What is wrong with its name.
        reason: &'static str,
    },
    /// Two members of one name.
    #[error("more than one member {0:?}")]
    Repeated(String),
    /// An extended header that is not as pax or GNU tar write it.
    #[error("extended header at byte {begin}: {reason}")]
    Extended {
        /// Where it begins.
        begin: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A member whose size the header has no place for.
    #[error("member {member:?} has {size} bytes, more than a tar header counts")]
    Large {
        /// The member.
        member: String,
        /// Bytes that it has.
        size: u64,
    },
}

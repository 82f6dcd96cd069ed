//! Lookups: many point reads in one request.

use wk_proto::cluster::v1 as pb;
use wk_store::DataDb;

use crate::channel::read as messages;
use crate::error::Refusal;
use crate::limits::QUERIES_MAX;
use crate::shard::read as metadata;

/// Answers every query; one that fails does not touch the others.
///
/// # Errors
/// Too many queries.
pub(super) fn lookup(db: &DataDb, request: &pb::LookupRequest) -> Result<pb::LookupReply, Refusal> {
    if request.queries.len() > QUERIES_MAX {
        return Err(Refusal::too_large("too many queries"));
    }
    let answer = |query| one(db, query).unwrap_or_else(|refusal| pb::Answer { error: Some(refusal.to_proto()), ..pb::Answer::default() });
    Ok(pb::LookupReply { answers: request.queries.iter().map(answer).collect() })
}

fn one(db: &DataDb, query: &pb::Query) -> Result<pb::Answer, Refusal> {
    use pb::query::Of;
    let number = |number| pb::Answer { number, ..pb::Answer::default() };
    match query.of.as_ref().ok_or_else(|| Refusal::rejected("query is empty"))? {
        Of::Row(key) => Ok(pb::Answer { value: metadata::row(db, key)?.map(Into::into), ..pb::Answer::default() }),
        Of::Contains(key) => Ok(number(u64::from(metadata::contains(db, key)?))),
        Of::Count(list) => Ok(number(metadata::count(db, list)?)),
        Of::LastSeq(channel) => Ok(number(messages::channel(db, channel)?.1.map_or(0, |row| row.last_seq))),
        Of::Stored(key) => {
            let (message_id, seq) = messages::stored(db, key)?;
            Ok(pb::Answer { number: seq, message_id, ..pb::Answer::default() })
        }
    }
}

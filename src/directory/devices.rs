//! `devices`: those made from templates.

use hyper::Method;

use crate::directory::device::Device;
use crate::directory::errors::Fault;
use crate::directory::odata::{Query, Takes};
use crate::directory::{Answer, Call, list, validate};
use crate::store::Collection;

pub(super) const KIND: Collection = Collection::Devices;
pub(super) const CONTEXT: &str = "devices";
/// Devices in one directory.
pub(super) const MOST: u64 = 10_000_000;

pub(super) async fn collection(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::page::<Device>(call, KIND, CONTEXT).await,
        Method::POST => Err(Fault::Conflict(
            "A device is made from a template here: POST \
             /directory/templates/deviceTemplates/{id}/createDeviceFromTemplate."
                .into(),
        )),
        _ => Err(Fault::Method("GET")),
    }
}

pub(super) async fn count(call: &Call) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::count::<Device>(call, KIND).await,
        _ => Err(Fault::Method("GET")),
    }
}

pub(super) async fn one(call: &Call, id: &str) -> Result<Answer, Fault> {
    match call.method {
        Method::GET => list::get::<Device>(call, KIND, id, CONTEXT).await,
        Method::PATCH => {
            Query::parse::<Device>(&call.query, Takes::Nothing)?;
            let body = call.object()?;
            let change = |stored: &Device| validate::devices::update_device(stored, &body);
            list::update(call, KIND, id, change).await.map(|_| Answer::Done)
        }
        Method::DELETE => list::remove::<Device>(call, KIND, id).await,
        _ => Err(Fault::Method("GET, PATCH, DELETE")),
    }
}

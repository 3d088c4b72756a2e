//! The routes of the two sockets, each in one list: method, path, parameters, request and answer.
//!
//! The client's methods and the server's requests, router and handlers are generated from these lists, so neither side can
//! have a route that the other lacks. A list calls the given macro with lines of the following form. The first brackets
//! contain the parameters of the path, the second ones the type of the request's body, if there is one:
//!
//! `Variant method_name: METHOD "path" [parameter: Type, ...] [Body] -> Answer, "the doc";`

/// Lists the routes of [`CNI_SOCKET`](crate::CNI_SOCKET). Errors are [`CniError`](crate::CniError).
#[macro_export]
macro_rules! cni_routes {
    ($callback:ident) => {
        $callback! {
            Prepare prepare: POST "/v1/attachments" [] [PrepareRequest] -> Prepared,
                "Asks for an attachment: id, addresses, routes.";
            Ready ready: POST "/v1/attachments/{container}/{ifname}/ready"
                [container: ContainerId, ifname: IfName] [ReadyRequest] -> Ready,
                "Reports that the interface stands, and waits until its port forwards.";
            Attachment attachment: GET "/v1/attachments/{container}/{ifname}"
                [container: ContainerId, ifname: IfName] [] -> Attachment,
                "Asks for the state of an attachment; an unknown one is refused as an unknown container.";
            Release release: DELETE "/v1/attachments/{container}/{ifname}"
                [container: ContainerId, ifname: IfName] [] -> Released,
                "Releases an attachment; one that does not exist is no error.";
            Readiness readiness: GET "/v1/readiness" [] [] -> Readiness,
                "Asks whether an ADD can be served; if not, the answer is an error with code 50.";
        }
    };
}

/// Lists the routes of [`API_SOCKET`](crate::API_SOCKET). Errors are [`QueryError`](crate::QueryError).
#[macro_export]
macro_rules! api_routes {
    ($callback:ident) => {
        $callback! {
            Status status: GET "/v1/status" [] [] -> Status,
                "Asks for the agent's state.";
            Drops drops: POST "/v1/drops" [] [DropsRequest] -> Drops,
                "Asks for the packets that were dropped last.";
            Flows flows: POST "/v1/flows" [] [FlowsRequest] -> Flows,
                "Asks for a page of the connections.";
        }
    };
}

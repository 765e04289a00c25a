"""The main story with a generated Python client."""

import sys
import time

from flowmate_client import ApiClient, Configuration
from flowmate_client.api import AuthenticationApi, ExecutionsApi, FlowsApi, TemplatesApi, WebhooksApi
from flowmate_client.exceptions import NotFoundException
from flowmate_client.models import Credentials, Edge, Graph, MutableFlow, MutableFlowTemplate, Node

url, password = sys.argv[1:]


def until(what, check):
    for _ in range(200):
        if check():
            return
        time.sleep(0.05)
    raise SystemExit(f"{what} did not happen")


anonymous = ApiClient(Configuration(host=url))
session = AuthenticationApi(anonymous).login(Credentials(username="admin", password=password))
client = ApiClient(Configuration(host=url, access_token=session.token))
flows, templates, executions = FlowsApi(client), TemplatesApi(client), ExecutionsApi(client)

template = templates.create_template(MutableFlowTemplate(
    name="Orders, by Python",
    type="ordinary",
    graph=Graph(
        nodes=[
            Node(id="in", component_id="666c6f776d61746500000001", function="receive"),
            Node(id="map", component_id="666c6f776d61746500000003", function="jsonata",
                 fields={"expression": '{"sum": total}'}),
        ],
        edges=[Edge(source="in", target="map")],
    ),
)).data
flow = templates.generate_flow(template.id, MutableFlow(name="Orders of Ada")).data
flows.start_flow(flow.id)
until("the start", lambda: flows.get_flow(flow.id).data.status == "active")

receipt = WebhooksApi(anonymous).receive_webhook(flow.id, {"total": 179.4}).data


def succeeded():
    try:
        return executions.get_execution(receipt.execution_id).data.status == "success"
    except NotFoundException:
        return False


until("the execution", succeeded)
flows.stop_flow(flow.id)
until("the stop", lambda: flows.get_flow(flow.id).data.status == "inactive")
flows.delete_flow(flow.id)
templates.delete_template(template.id)
print("python: played")

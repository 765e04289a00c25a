// The main story with a generated TypeScript client.
import createClient from "openapi-fetch";
import type { paths } from "./client/flowmate.js";

const [url, password] = process.argv.slice(2);
const anonymous = createClient<paths>({ baseUrl: url });

// The answer, or an end with what the server said.
function must<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) {
    throw new Error(`${answer.response.status}: ${JSON.stringify(answer.error)}`);
  }
  return answer.data;
}

async function until(what: string, check: () => Promise<boolean>) {
  for (let tries = 0; tries < 200; tries++) {
    if (await check()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${what} did not happen`);
}

const session = must(await anonymous.POST("/login", { body: { username: "admin", password } }));
const client = createClient<paths>({ baseUrl: url, headers: { authorization: `Bearer ${session.token}` } });

const template = must(await client.POST("/templates", {
  body: {
    name: "Orders, by TypeScript",
    type: "ordinary",
    graph: {
      nodes: [
        { id: "in", componentId: "666c6f776d61746500000001", function: "receive" },
        { id: "map", componentId: "666c6f776d61746500000003", function: "jsonata", fields: { expression: "{\"sum\": total}" } },
      ],
      edges: [{ source: "in", target: "map" }],
    },
  },
})).data;

const flow = must(await client.POST("/templates/{id}/generate", { params: { path: { id: template.id } }, body: { name: "Orders of Ada" } })).data;
const path = { params: { path: { id: flow.id } } };
must(await client.POST("/flows/{id}/start", path));
const status = async () => must(await client.GET("/flows/{id}", path)).data.status;
await until("the start", async () => (await status()) === "active");

const receipt = must(await anonymous.POST("/webhooks/{flowId}", { params: { path: { flowId: flow.id } }, body: { total: 179.4 } })).data;
const execution = { params: { path: { id: receipt.executionId } } };
await until("the execution", async () => (await client.GET("/executions/{id}", execution)).data?.data.status === "success");

must(await client.POST("/flows/{id}/stop", path));
await until("the stop", async () => (await status()) === "inactive");
must(await client.DELETE("/flows/{id}", path));
must(await client.DELETE("/templates/{id}", { params: { path: { id: template.id } } }));
console.log("typescript: played");

// The main story with a generated Go client.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	flowmate "example.com/flowmate/client"
)

func must[T any](value T, _ *http.Response, err error) T {
	if err != nil {
		if api, ok := err.(*flowmate.GenericOpenAPIError); ok {
			err = fmt.Errorf("%w: %s", err, api.Body())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func until(what string, check func() bool) {
	for range 200 {
		if check() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, what, "did not happen")
	os.Exit(1)
}

func main() {
	url, password := os.Args[1], os.Args[2]
	configuration := flowmate.NewConfiguration()
	configuration.Servers = flowmate.ServerConfigurations{{URL: url}}
	client := flowmate.NewAPIClient(configuration)
	nobody := context.Background()
	session := must(client.AuthenticationAPI.Login(nobody).Credentials(flowmate.Credentials{Username: "admin", Password: password}).Execute())
	if session.Token == "" {
		fmt.Fprintln(os.Stderr, "no token")
		os.Exit(1)
	}
	admin := context.WithValue(nobody, flowmate.ContextAccessToken, session.Token)

	in := flowmate.Node{Id: "in", ComponentId: "666c6f776d61746500000001", Function: "receive"}
	mapping := flowmate.Node{Id: "map", ComponentId: "666c6f776d61746500000003", Function: "jsonata",
		Fields: map[string]any{"expression": `{"sum": total}`}}
	graph := flowmate.Graph{Nodes: []flowmate.Node{in, mapping}, Edges: []flowmate.Edge{{Source: "in", Target: "map"}}}
	body := flowmate.MutableFlowTemplate{Graph: &graph}
	body.SetName("Orders, by Go")
	body.SetType("ordinary")
	template := must(client.TemplatesAPI.CreateTemplate(admin).MutableFlowTemplate(body).Execute()).Data
	changes := flowmate.MutableFlow{}
	changes.SetName("Orders of Ada")
	flow := must(client.TemplatesAPI.GenerateFlow(admin, template.Id).MutableFlow(changes).Execute()).Data
	must(client.FlowsAPI.StartFlow(admin, flow.Id).Execute())
	status := func() flowmate.FlowStatus { return must(client.FlowsAPI.GetFlow(admin, flow.Id).Execute()).Data.Status }
	until("the start", func() bool { return status() == flowmate.FLOWSTATUS_ACTIVE })

	order := map[string]any{"total": 179.4}
	receipt := must(client.WebhooksAPI.ReceiveWebhook(nobody, flow.Id).RequestBody(order).Execute()).Data
	until("the execution", func() bool {
		execution, _, err := client.ExecutionsAPI.GetExecution(admin, receipt.ExecutionId).Execute()
		return err == nil && execution.Data.Status == "success"
	})

	must(client.FlowsAPI.StopFlow(admin, flow.Id).Execute())
	until("the stop", func() bool { return status() == flowmate.FLOWSTATUS_INACTIVE })
	must(client.FlowsAPI.DeleteFlow(admin, flow.Id).Execute())
	must(client.TemplatesAPI.DeleteTemplate(admin, template.Id).Execute())
	fmt.Println("go: played")
}

import io.flowmate.ApiClient;
import io.flowmate.ApiException;
import io.flowmate.api.*;
import io.flowmate.model.*;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;

/** The main story with a generated Java client. */
public class Story {
    static void until(String what, Callable<Boolean> check) throws Exception {
        for (int tries = 0; tries < 200; tries++) {
            if (check.call()) return;
            Thread.sleep(50);
        }
        throw new IllegalStateException(what + " did not happen");
    }

    public static void main(String[] arguments) throws Exception {
        ApiClient anonymous = new ApiClient();
        anonymous.updateBaseUri(arguments[0]);
        AccessToken session = new AuthenticationApi(anonymous)
            .login(new Credentials().username("admin").password(arguments[1]));
        ApiClient client = new ApiClient();
        client.updateBaseUri(arguments[0]);
        client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + session.getToken()));
        FlowsApi flows = new FlowsApi(client);
        TemplatesApi templates = new TemplatesApi(client);
        ExecutionsApi executions = new ExecutionsApi(client);

        Graph graph = new Graph()
            .nodes(List.of(
                new Node().id("in").componentId("666c6f776d61746500000001").function("receive"),
                new Node().id("map").componentId("666c6f776d61746500000003").function("jsonata")
                    .fields(Map.of("expression", "{\"sum\": total}"))))
            .edges(List.of(new Edge().source("in").target("map")));
        String template = templates
            .createTemplate(new MutableFlowTemplate().name("Orders, by Java").type("ordinary").graph(graph))
            .getData().getId();
        String flow = templates.generateFlow(template, new MutableFlow().name("Orders of Ada")).getData().getId();
        flows.startFlow(flow);
        until("the start", () -> flows.getFlow(flow).getData().getStatus() == FlowStatus.ACTIVE);

        String execution = new WebhooksApi(anonymous)
            .receiveWebhook(flow, Map.of("total", 179.4)).getData().getExecutionId();
        until("the execution", () -> {
            try {
                return "success".equals(executions.getExecution(execution).getData().getStatus());
            } catch (ApiException error) {
                if (error.getCode() == 404) return false;
                throw error;
            }
        });

        flows.stopFlow(flow);
        until("the stop", () -> flows.getFlow(flow).getData().getStatus() == FlowStatus.INACTIVE);
        flows.deleteFlow(flow);
        templates.deleteTemplate(template);
        System.out.println("java: played");
    }
}

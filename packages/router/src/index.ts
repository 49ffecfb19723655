export { argmaxRoute, hystereticRoute } from "./choose.ts";
export { GraphRouter, type RouterOptions } from "./graph-router.ts";
export { withHysteresis } from "./hysteresis.ts";
export { routeStatistics, type RouteStatistics } from "./route-statistics.ts";
export { routerGraph } from "./router-graph.ts";
export { fixedRouter, ruleRouter } from "./simple-routers.ts";
export { openRouter, type ExpertChoice } from "./open-router.ts";

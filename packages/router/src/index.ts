export { argmaxRoute, hystereticRoute } from "./choose.ts";
export { KernelRouter, type RouterOptions } from "./kernel-router.ts";
export { withHysteresis } from "./hysteresis.ts";
export { routeStatistics, type RouteStatistics } from "./route-statistics.ts";
export { fixedRouter, ruleRouter } from "./simple-routers.ts";
export { openRouter, type ExpertChoice } from "./open-router.ts";

export { KernelRouter, type RouterOptions } from "./kernel-router.ts";
export { fixedRouter, openRouter, routeWhole, ruleRouter, type ExpertChoice } from "./open-router.ts";
export { argmaxRoute, routeStatistics, type RouteStatistics } from "./routes.ts";

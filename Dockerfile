# A server for one model, which is mounted at /model:
#
#   docker build -t readme-moe .
#   docker run -p 8080:8080 -v ./my-model:/model:ro -e README_MOE_API_KEYS=sk-… readme-moe
#
# Arguments of `docker run` after the image's name are those of `readme-moe serve /model`. docs/how-to/docker.md has memory, cores and health.

FROM node:20-slim AS build
WORKDIR /source
RUN npm install --global pnpm@10.34.9
COPY package.json pnpm-lock.yaml pnpm-workspace.yaml tsconfig.base.json ./
COPY packages packages
COPY tools/packages/bundle.mjs tools/packages/
RUN pnpm install --frozen-lockfile && pnpm exec tsc -b packages/readme-moe && node tools/packages/bundle.mjs
# Again without what only building needs. Hoisted, because packages of a workspace get their peers, such as express, as
# development dependencies; this installs for all packages, so that the lab's libraries (350 MB) are removed.
RUN rm -rf node_modules packages/*/node_modules packages/refactor/* \
 && pnpm install --frozen-lockfile --prod --filter "readme-moe..." --config.node-linker=hoisted \
 && rm -rf node_modules/onnxruntime-* node_modules/vega*

FROM node:20-slim
ENV NODE_ENV=production README_MOE_CACHE=/cache
COPY --from=build /source /app
# Weights are packed once; a volume here keeps them from one container to the next.
RUN mkdir /cache && chown node:node /cache
VOLUME /cache
USER node
EXPOSE 8080
# The model may take a while to be opened; until then /health says 503.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:8080/health').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# Without a shell in between, SIGTERM reaches the server, which then ends its requests first.
ENTRYPOINT ["node", "/app/packages/readme-moe/dist/main.js", "serve", "/model", "--host", "0.0.0.0", "--port", "8080"]

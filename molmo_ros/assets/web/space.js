// The 3D view: cloud of the scene, objects, boxes, covariance, gripper and approach. Draws only when something changes.

import {
  AmbientLight, BoxGeometry, BufferAttribute, BufferGeometry, Color, ConeGeometry, CylinderGeometry, DirectionalLight, EdgesGeometry,
  Group, LineBasicMaterial, LineSegments, Matrix4, Mesh, MeshLambertMaterial, OrbitControls, PerspectiveCamera, Points, PointsMaterial,
  Quaternion, Scene, SphereGeometry, Vector3, WebGLRenderer,
} from "./vendor/three.min.js";
import { ACCENTS } from "./picture.js";

const PLAIN_HAND = { finger: [0.02, 0.012, 0.045], palm: [0.03, 0.12, 0.04], max_opening: 0.08 };
const MIN_RADIUS = 0.003; // m, so that a certain point can be seen at all
const AROUND = 0.5, ABOVE = 0.6, DISTANCE = 1.15; // rad from the camera's side, rad above the ground, depths away
const TURN = 0.08; // rad for each press of an arrow key

export class Space {
  constructor(box, empty) {
    this.box = box;
    this.empty = empty;
    this.hand = PLAIN_HAND;
    this.answer = null;
    this.chosen = 0;
    this.clouds = {};
    this.renderer = new WebGLRenderer({ antialias: true, alpha: true });
    box.append(this.renderer.domElement);
    this.scene = new Scene();
    this.scene.add(new AmbientLight(0xffffff, 1.6));
    const sun = new DirectionalLight(0xffffff, 1.8);
    this.camera = new PerspectiveCamera(45, 1, 0.02, 30);
    this.camera.add(sun);
    this.scene.add(this.camera);
    this.marks = new Group();
    this.scene.add(this.marks);
    this.controls = null;
    this.due = false;
    new ResizeObserver(() => this.resize()).observe(box);
    box.addEventListener("keydown", (event) => this.key(event));
  }

  // header: count, unit_m, T, frame_id; positions int16, then colours uint8.
  setCloud(header, data, start) {
    const { kind, count } = header;
    const object = kind === "object";
    const bytes = 6 * count;
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(new Int16Array(data, start, 3 * count), 3));
    geometry.setAttribute("color", new BufferAttribute(new Uint8Array(data, start + bytes, 3 * count), 3, true));
    const old = this.clouds[kind];
    const material = old?.points.material ?? new PointsMaterial({ vertexColors: true });
    const points = new Points(geometry, material);
    points.frustumCulled = false;
    points.matrixAutoUpdate = false;
    points.matrix.copy(rowMajor(header.T)).multiply(new Matrix4().makeScale(header.unit_m, header.unit_m, header.unit_m));
    if (object) points.renderOrder = 1;
    if (old) { this.scene.remove(old.points); old.points.geometry.dispose(); }
    this.scene.add(points);
    this.clouds[kind] = { header, points };
    if (!object) this.setFrame(header);
    material.size = this.depth ? (object ? 2.2 : 2) * this.clouds.scene.header.spread * this.depth : 0.004;
    this.empty.hidden = true;
    this.drawMarks();
  }

  setFrame(header) {
    if (this.frame === header.frame_id && this.controls) return;
    this.frame = header.frame_id;
    this.T = rowMajor(header.T);
    this.depth = middleDepth(this.clouds.scene);
    this.turned = false;
    this.reset();
  }

  // Another camera is shown from now on.
  forget() {
    for (const { points } of Object.values(this.clouds)) { this.scene.remove(points); points.geometry.dispose(); }
    this.clouds = {};
    this.frame = undefined;
    this.empty.hidden = false;
    this.drawMarks();
  }

  // Look from beside the camera at the middle of what it sees.
  reset() {
    const scene = this.clouds.scene;
    if (!scene) return;
    const up = this.up(), middle = new Vector3(0, 0, this.depth).applyMatrix4(this.T);
    const back = new Vector3().setFromMatrixPosition(this.T).sub(middle).projectOnPlane(up).normalize();
    const target = this.placed && this.answer?.targets[this.chosen]?.position;
    if (target) middle.lerp(new Vector3(...target), 0.6);
    const arm = back.applyAxisAngle(up, AROUND).multiplyScalar(Math.cos(ABOVE)).addScaledVector(up, Math.sin(ABOVE));
    this.controls?.dispose();
    this.camera.up.copy(up);
    this.camera.position.copy(middle).addScaledVector(arm, DISTANCE * this.depth);
    this.controls = new OrbitControls(this.camera, this.renderer.domElement);
    this.controls.target.copy(middle);
    this.controls.minDistance = 0.05;
    this.controls.maxDistance = 12;
    this.controls.addEventListener("start", () => { this.turned = true; });
    this.controls.addEventListener("change", () => this.redraw());
    this.controls.update();
    this.redraw();
  }

  // Away from the ground: z of a robot's frame, or of an object's box; a camera alone is taken to look down.
  up() {
    if (!isIdentity(this.clouds.scene.header.T)) return new Vector3(0, 0, 1);
    const box = this.placed && this.answer?.targets.find((target) => target.object)?.object.pose;
    return box ? new Vector3(0, 0, 1).applyQuaternion(new Quaternion(...box.orientation)) : new Vector3(0, -0.8, -0.6);
  }

  setAnswer(answer) {
    this.answer = answer;
    if (!this.turned && this.controls && !answer.following) this.reset();
    this.drawMarks();
  }

  setHand(hand) {
    this.hand = hand;
    this.drawMarks();
  }

  // Whether the targets can be placed in the cloud: both are in the same frame.
  get placed() {
    return !this.answer || !this.frame || this.answer.frame_id === this.frame;
  }

  drawMarks() {
    this.marks.traverse((part) => { part.geometry?.dispose(); part.material?.dispose(); });
    this.marks.clear();
    if (this.answer && this.placed) {
      this.answer.targets.forEach((target, i) => this.addTarget(target, ACCENTS[i % ACCENTS.length], i === this.chosen));
    }
    const object = this.clouds.object;
    if (object) object.points.visible = Boolean(this.answer?.targets.length) && object.header.frame_id === this.frame;
    this.redraw();
  }

  addTarget(target, accent, chosen) {
    if (target.position && target.ellipsoid) {
      const radii = target.ellipsoid.radii.map((r) => Math.max(r, MIN_RADIUS));
      const mesh = solid(new SphereGeometry(1, 24, 16), 0xff5a4d, 0.65);
      mesh.scale.set(...radii);
      this.marks.add(posed(mesh, { position: target.position, orientation: target.ellipsoid.orientation }));
    }
    if (target.object) {
      const size = target.object.size.map((side) => Math.max(side, 0.001));
      const box = new BoxGeometry(...size);
      this.marks.add(posed(new LineSegments(new EdgesGeometry(box), new LineBasicMaterial({ color: accent })), target.object.pose));
      if (chosen) this.marks.add(posed(solid(box, accent, 0.1), target.object.pose));
    }
    if (target.grasp) {
      this.marks.add(posed(this.makeHand(target, chosen), target.grasp));
      this.marks.add(...approach(target, accent));
    }
  }

  // In the grasp frame: z approaches, y closes, the origin is between the fingertips.
  makeHand(target, chosen) {
    const { finger: [width, thick, length], palm: [px, py, pz], max_opening: most } = this.hand;
    const gap = Math.min(target.opening || target.width || most, most);
    const hand = new Group();
    const part = (size, at, opacity) => {
      const box = new BoxGeometry(...size);
      const mesh = solid(box, 0x7fa4d8, chosen ? opacity : 0.08);
      const edges = new LineSegments(new EdgesGeometry(box), new LineBasicMaterial({ color: 0x7fb2ff, transparent: true, opacity: chosen ? 1 : 0.4 }));
      for (const made of [mesh, edges]) { made.position.set(...at); hand.add(made); }
    };
    for (const side of [1, -1]) part([width, thick, length], [0, side * (gap + thick) / 2, -length / 2], 0.55);
    part([px, py, pz], [0, 0, -length - pz / 2], 0.22);
    return hand;
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.redraw();
  }

  redraw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.renderer.render(this.scene, this.camera);
    });
  }

  key(event) {
    const turns = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const nearer = { "+": 0.9, "=": 0.9, "-": 1.1 };
    if (!this.controls || (!turns[event.key] && !nearer[event.key])) return;
    event.preventDefault();
    this.turned = true;
    const arm = this.camera.position.clone().sub(this.controls.target);
    if (nearer[event.key]) arm.multiplyScalar(nearer[event.key]);
    else {
      const [around, over] = turns[event.key];
      const side = new Vector3().crossVectors(this.camera.up, arm).normalize();
      arm.applyQuaternion(new Quaternion().setFromAxisAngle(this.camera.up, -TURN * around));
      const tilted = arm.clone().applyQuaternion(new Quaternion().setFromAxisAngle(side, -TURN * over));
      if (tilted.angleTo(this.camera.up) > 0.1 && tilted.angleTo(this.camera.up) < 3.04) arm.copy(tilted);
    }
    this.camera.position.copy(this.controls.target).add(arm);
    this.controls.update();
    this.redraw();
  }
}

// An arrow from the pregrasp to the grasp.
function approach(target, color) {
  const from = new Vector3(...target.pregrasp.position), to = new Vector3(...target.grasp.position);
  const way = to.clone().sub(from), length = way.length();
  if (length < 0.005) return [];
  const turn = new Quaternion().setFromUnitVectors(new Vector3(0, 1, 0), way.clone().normalize());
  const shaft = solid(new CylinderGeometry(0.0018, 0.0018, length - 0.018, 10), color, 1);
  shaft.position.copy(from).addScaledVector(way, (length - 0.018) / 2 / length);
  const head = solid(new ConeGeometry(0.006, 0.018, 14), color, 1);
  head.position.copy(to).addScaledVector(way, -0.009 / length);
  for (const part of [shaft, head]) part.quaternion.copy(turn);
  return [shaft, head];
}

function solid(geometry, color, opacity) {
  const seen = opacity >= 1;
  return new Mesh(geometry, new MeshLambertMaterial({ color: new Color(color), transparent: !seen, opacity, depthWrite: opacity > 0.6 }));
}

function posed(part, pose) {
  part.position.set(...pose.position);
  part.quaternion.set(...pose.orientation);
  return part;
}

// Of a cloud, in m along the camera's axis.
function middleDepth(cloud) {
  const position = cloud.points.geometry.attributes.position;
  const depths = Array.from({ length: position.count }, (_, i) => position.getZ(i)).sort((a, b) => a - b);
  return (depths[depths.length >> 1] || 2000) * cloud.header.unit_m;
}

function rowMajor(values) {
  return new Matrix4().set(...values);
}

function isIdentity(values) {
  return values.every((value, i) => Math.abs(value - (i % 5 === 0 ? 1 : 0)) < 1e-9);
}
